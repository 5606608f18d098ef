import psycopg


def test_a(database):
    with psycopg.connect(database.dsn("tracking")) as c:
        print(c.execute("show timezone").fetchone(), c.execute("show statement_timeout").fetchone())


def test_b(database):
    with psycopg.connect(database.dsn("tracking_ingest")) as c:
        print(c.execute("show timezone").fetchone())


def test_c(crashable_database):
    pass
