"""Settings of a service process, read from the environment once, in its main.

Every name starts with DRIVEFLOW_. Units are the last part of a name.
"""

from __future__ import annotations

import logging
import re
from typing import Any, TypeVar

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "DRIVEFLOW_"
_NAME = r"[a-z][a-z0-9_-]{0,62}"
SettingsT = TypeVar("SettingsT", bound="Settings")


class SettingsError(Exception):
    """The environment is incomplete or wrong; the message names every variable at once."""


class Settings(BaseSettings):
    """What every service needs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    listen: str = Field(description="host:port of the gRPC server")
    dsn: SecretStr = Field(description="PostgreSQL connection string of the service's login role")
    jwks: str = Field(description="path or URL of the public keys that sign tokens")
    token_issuer: str = "https://driveflow.example/"
    token_audience: str = "driveflow"
    page_token_key: SecretStr = Field(description="signs page tokens; 32 characters or more")

    metrics_listen: str | None = Field(None, description="host:port of the Prometheus endpoint")
    otlp_endpoint: AnyHttpUrl | None = Field(None, description="OTLP over HTTP, traces and metrics")
    trace_ratio: float = Field(0.01, ge=0, le=1, description="calls traced, of those undecided")
    log_level: str = "INFO"
    reflection: bool = Field(False, description="serve gRPC reflection")

    tls_cert: str | None = Field(None, description="PEM file of the server's certificate")
    tls_key: str | None = Field(None, description="PEM file of the server's key")
    tls_client_ca: str | None = Field(None, description="PEM file: clients must show a certificate")
    plaintext: bool = Field(False, description="allow plaintext on an address beyond loopback")

    service_key: str | None = Field(
        None, description="PEM file of the key that signs this service's own tokens"
    )
    event_sources: str | None = Field(
        None, description="services whose events are consumed: name=host:port,…"
    )
    event_consumers: str | None = Field(
        None, description="services that must have taken an event before it is processed: name,…"
    )
    event_tls_ca: str | None = Field(
        None, description="PEM file: services are called with TLS and checked against it"
    )

    pool_min_size: int = Field(2, ge=1)
    pool_max_size: int = Field(20, ge=1, description="the guide's connection limit")
    pool_timeout_s: float = Field(2.0, gt=0, description="longest wait for a connection")
    start_timeout_s: float = Field(30.0, gt=0, description="longest wait for the database at start")
    pool_max_waiting: int = Field(200, ge=1, description="more waiting calls are refused")

    calls_max: int = Field(100, ge=1, description="unary calls under way; more are refused")
    streams_max: int = Field(2_000, ge=1, description="streams under way; more are refused")
    call_timeout_s: float = Field(10.0, gt=0, description="longest deadline of a unary call")
    stream_age_max_s: float = Field(3_600.0, gt=0, description="a stream is asked to reopen then")
    drain_s: float = Field(10.0, gt=0, description="grace for calls under way at shutdown")

    @field_validator("page_token_key")
    @classmethod
    def _long_enough(cls, key: SecretStr) -> SecretStr:
        if len(key.get_secret_value().encode()) < 32:
            raise ValueError("too short: 32 characters or more, as of `openssl rand -hex 32`")
        return key

    @field_validator("event_sources")
    @classmethod
    def _known_form_of_sources(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(rf"({_NAME}=[^\s,=]+:\d+(,|$))*", text):
            raise ValueError("not name=host:port, with commas between")
        return text

    @field_validator("event_consumers")
    @classmethod
    def _known_form_of_consumers(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(rf"({_NAME}(,|$))*", text):
            raise ValueError("not names with commas between")
        return text

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level.upper() not in logging.getLevelNamesMapping():
            raise ValueError("no level: DEBUG, INFO, WARNING or ERROR")
        return level.upper()


def load(kind: type[SettingsT]) -> SettingsT:
    """Read `kind` from the environment; raise SettingsError naming all that is wrong."""
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError("\n".join(_complaint(item) for item in error.errors())) from None


def _complaint(item: Any) -> str:
    name = PREFIX + "_".join(str(part) for part in item["loc"]).upper()
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"
