"""Who is told when a run of the Dagster UI fails, and how. No secret is a setting: the environment variable that holds it is named.

>>> load_profile("demo", {"alarms.webhook_env": "TEAM_WEBHOOK", "alarms.email.to": ["ann@example.org"]}).alarms
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mmret.settings.base import Settings


def _variable(name: str | None) -> str | None:
    if name is not None and not name.isidentifier():  # what is no name may be the secret itself: it is not repeated
        raise ValueError("this is the name of an environment variable that holds the secret, such as MMRET_WEBHOOK, not the secret")
    return name


Variable = Annotated[str | None, AfterValidator(_variable)]


class EmailSettings(Settings):
    """A mail server that takes mail from this machine."""

    to: tuple[str, ...] = Field((), description="addresses; none: no mail")
    sender: str = "mmret@localhost"
    host: str = "localhost"
    port: int = Field(25, ge=1, le=65535)
    security: Literal["none", "starttls", "ssl"] = "none"
    user: str | None = Field(None, description="None: the server asks for no password")
    password_env: Variable = Field(None, description="environment variable of the code server with the password")

    @model_validator(mode="after")
    def _with_password(self) -> EmailSettings:
        if self.user and not self.password_env:
            raise ValueError("user needs password_env, the name of an environment variable that holds the password")
        return self


class AlarmSettings(Settings):
    """Alarms are always logged; an address or a variable here sends them too."""

    webhook_env: Variable = Field(
        None, description="environment variable of the code server with the address that takes JSON, as Slack's and Mattermost's do"
    )
    email: EmailSettings = EmailSettings()
    ui: str | None = Field(None, description="address of the UI for links, such as http://127.0.0.1:3000")
    window_minutes: float = Field(60, gt=0, description="the same failure, or one backfill, is told of once in so long")
    of_terminal: bool = Field(False, description="also where `mmret run` fails, which says so itself where it was started")
