/* Sends unary gRPC calls from a file, each once: for calls that must differ, which h2load can't.
 *
 *     create_client HOST PORT PATH FILE CONNECTIONS IN_FLIGHT [HEADER VALUE]...
 *
 * FILE holds the requests as they stand in bodies: a zero byte, four bytes of big-endian length,
 * the message. Every answer's grpc-status is looked at. Prints one line of JSON:
 * {"count", "failures", "seconds", "p50_ms", "p95_ms", "p99_ms"}; failures' statuses to stderr.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 256, HEADERS_MAX = 16, SHOWN_MAX = 3, WAIT_MS = 20000 };

typedef struct {
  const uint8_t *bytes;
  size_t length, sent;
  double started_s;
  int status; /* of gRPC; -1 until it is known */
  char text[120];
} Call;

typedef struct {
  int socket;
  nghttp2_session *session;
  const uint8_t *rest; /* taken from the session and not yet by the socket */
  size_t rest_length;
} Connection;

static const char *host, *port, *path;
static nghttp2_nv headers[HEADERS_MAX];
static size_t header_count;
static Call *calls;
static size_t call_count, next_call, done_count, failures;
static double *latencies_ms;

static void die(const char *what) {
  fprintf(stderr, "create_client: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
  exit(2);
}

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- the requests --- */

static uint8_t *read_file(const char *name, size_t *length) {
  FILE *file = fopen(name, "rb");
  if (file == NULL) die(name);
  fseek(file, 0, SEEK_END);
  *length = (size_t)ftell(file);
  rewind(file);
  uint8_t *bytes = malloc(*length + 1);
  if (bytes == NULL || fread(bytes, 1, *length, file) != *length) die(name);
  fclose(file);
  return bytes;
}

static size_t frame_length(const uint8_t *at, size_t left) {
  if (left < 5) die("the file ends within a request");
  size_t length = 5 + ((size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4]);
  if (length > left) die("the file ends within a request");
  return length;
}

static void load_calls(const char *name) {
  size_t total, at;
  uint8_t *bytes = read_file(name, &total);
  for (at = 0; at < total; at += frame_length(bytes + at, total - at)) call_count++;
  calls = calloc(call_count + 1, sizeof *calls);
  latencies_ms = calloc(call_count + 1, sizeof *latencies_ms);
  if (call_count == 0 || calls == NULL || latencies_ms == NULL) die("no requests");
  size_t place = 0;
  for (at = 0; at < total; at += calls[place++].length) {
    calls[place].bytes = bytes + at;
    calls[place].length = frame_length(bytes + at, total - at);
    calls[place].status = -1;
  }
}

static void add_header(const char *name, const char *value) {
  if (header_count == HEADERS_MAX) die("too many headers");
  nghttp2_nv *nv = &headers[header_count++];
  nv->name = (uint8_t *)name;
  nv->namelen = strlen(name);
  nv->value = (uint8_t *)value;
  nv->valuelen = strlen(value);
  nv->flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE;
}

/* --- one call --- */

static ssize_t give_body(nghttp2_session *session, int32_t stream, uint8_t *buffer, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user) {
  (void)session, (void)stream, (void)user;
  Call *call = source->ptr;
  size_t left = call->length - call->sent;
  size_t taken = left < room ? left : room;
  memcpy(buffer, call->bytes + call->sent, taken);
  call->sent += taken;
  if (call->sent == call->length) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)taken;
}

static void submit_next(nghttp2_session *session) {
  if (next_call == call_count) return;
  Call *call = &calls[next_call++];
  nghttp2_data_provider body = {.source = {.ptr = call}, .read_callback = give_body};
  call->started_s = now_s();
  if (nghttp2_submit_request(session, NULL, headers, header_count, &body, call) < 0)
    die("can't submit a request");
}

static int is(const uint8_t *name, size_t length, const char *wanted) {
  return length == strlen(wanted) && memcmp(name, wanted, length) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *user) {
  (void)flags, (void)user;
  Call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (call == NULL) return 0;
  if (is(name, name_length, "grpc-status")) call->status = atoi((const char *)value);
  if (is(name, name_length, "grpc-message"))
    snprintf(call->text, sizeof call->text, "%.*s", (int)value_length, (const char *)value);
  return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t error, void *user) {
  (void)user;
  Call *call = nghttp2_session_get_stream_user_data(session, stream);
  if (call == NULL) return 0;
  latencies_ms[done_count++] = (now_s() - call->started_s) * 1e3;
  if (call->status != 0 && failures++ < SHOWN_MAX)
    fprintf(stderr, "create_client: grpc-status %d %s (http2 error %u)\n", call->status, call->text,
            error);
  submit_next(session);
  return 0;
}

/* --- connections --- */

static int connected(void) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  if (getaddrinfo(host, port, &hints, &found) != 0) die("can't find the host");
  int descriptor = socket(found->ai_family, SOCK_STREAM, 0), on = 1;
  if (descriptor < 0 || connect(descriptor, found->ai_addr, found->ai_addrlen) < 0)
    die("can't connect");
  freeaddrinfo(found);
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(descriptor, F_SETFL, O_NONBLOCK);
  return descriptor;
}

static void start(Connection *connection) {
  nghttp2_session_callbacks *callbacks;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
  nghttp2_session_client_new(&connection->session, callbacks, NULL);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_settings_entry window = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 24};
  nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, &window, 1);
  nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0, 1 << 28);
  connection->socket = connected();
}

/* All that the session has to say, as far as the socket takes it. */
static void write_some(Connection *connection) {
  for (;;) {
    if (connection->rest_length == 0) {
      ssize_t length = nghttp2_session_mem_send(connection->session, &connection->rest);
      if (length < 0) die("http2");
      if (length == 0) return;
      connection->rest_length = (size_t)length;
    }
    ssize_t taken = send(connection->socket, connection->rest, connection->rest_length, MSG_NOSIGNAL);
    if (taken < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (taken < 0) die("send");
    connection->rest += taken;
    connection->rest_length -= (size_t)taken;
  }
}

static void read_some(Connection *connection) {
  uint8_t buffer[65536];
  ssize_t length = recv(connection->socket, buffer, sizeof buffer, 0);
  if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
  errno = length < 0 ? errno : 0;
  if (length <= 0) die("the server closed a connection");
  if (nghttp2_session_mem_recv(connection->session, buffer, (size_t)length) < 0) die("http2");
}

static void run(size_t count, size_t in_flight) {
  static Connection connections[CONNECTIONS_MAX];
  static struct pollfd polled[CONNECTIONS_MAX];
  for (size_t i = 0; i < count; i++) start(&connections[i]);
  for (size_t i = 0; i < count * in_flight; i++) submit_next(connections[i % count].session);
  while (done_count < call_count) {
    for (size_t i = 0; i < count; i++) {
      write_some(&connections[i]);
      polled[i].fd = connections[i].socket;
      polled[i].events = (short)(POLLIN | (connections[i].rest_length ? POLLOUT : 0));
    }
    errno = 0;
    if (poll(polled, count, WAIT_MS) == 0) die("no answer for 20 s");
    for (size_t i = 0; i < count; i++)
      if (polled[i].revents & ~POLLOUT) read_some(&connections[i]);
  }
}

/* --- what is said in the end --- */

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double percentile(size_t percent) {
  size_t place = call_count * percent / 100;
  return latencies_ms[place < call_count ? place : call_count - 1];
}

int main(int count, char **words) {
  if (count < 7 || count % 2 == 0) {
    fprintf(stderr, "usage: create_client HOST PORT PATH FILE CONNECTIONS IN_FLIGHT [HEADER VALUE]...\n");
    return 2;
  }
  host = words[1], port = words[2], path = words[3];
  size_t connections = (size_t)atoi(words[5]), in_flight = (size_t)atoi(words[6]);
  if (connections < 1 || connections > CONNECTIONS_MAX || in_flight < 1) die("1 to 256 connections");
  load_calls(words[4]);
  add_header(":method", "POST");
  add_header(":scheme", "http");
  add_header(":path", path);
  add_header(":authority", host);
  add_header("content-type", "application/grpc");
  add_header("te", "trailers");
  for (int i = 7; i < count; i += 2) add_header(words[i], words[i + 1]);
  double started_s = now_s();
  run(connections, in_flight);
  double seconds = now_s() - started_s;
  qsort(latencies_ms, call_count, sizeof *latencies_ms, by_value);
  printf("{\"count\": %zu, \"failures\": %zu, \"seconds\": %.6f, \"p50_ms\": %.3f, \"p95_ms\": %.3f,"
         " \"p99_ms\": %.3f}\n",
         done_count, failures, seconds, percentile(50), percentile(95), percentile(99));
  return 0;
}
