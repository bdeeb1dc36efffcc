"""Sends an alarm by mail and to a webhook. A receiver that is dead or slow costs a tick some seconds and is tried again later.

Secrets are read here from the environment of the code server, and are in no message, log or error: of a failed delivery only
our own words and the kind of error are told.
"""

import logging
import os
import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

import httpx

from assets.alarms.message import Message
from mmret.settings import AlarmSettings, EmailSettings

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each address that it asks, and a webhook's is a secret

TIMEOUT = 5.0
"""Seconds for a server to answer one question."""
PATIENCE = 15.0
"""Seconds for a whole delivery, however slowly a server answers."""


class Refused(Exception):
    """The receiver will not take the message at a later time either; the text says why."""


class NotNow(Exception):
    """It was not delivered and may be later."""


def receivers(settings: AlarmSettings) -> list[str]:
    """The ways that are set up: ``webhook``, ``email``."""
    return [*(["webhook"] if settings.webhook_env else []), *(["email"] if settings.email.to else [])]


def _secret(variable: str, setting: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise NotNow(f"{setting} names {variable}, which is not set where the code server runs")
    return value


def send_webhook(message: Message, settings: AlarmSettings) -> None:
    address = _secret(settings.webhook_env or "", "alarms.webhook_env")
    text = message.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # or a caption could ping a whole channel
    try:
        with httpx.stream(
            "POST", address, json={"text": text, "subject": message.subject, **message.fields}, timeout=TIMEOUT
        ) as answer:
            code = answer.status_code
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise Refused(f"{settings.webhook_env} holds no address of the web") from None
    except httpx.HTTPError as error:
        raise NotNow(f"the webhook did not answer ({type(error).__name__})") from None
    if code in (408, 429) or code >= 500:
        raise NotNow(f"the webhook answered {code}")
    if code >= 300:
        raise Refused(f"the webhook answered {code}")


def send_email(message: Message, settings: EmailSettings) -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = message.subject, settings.sender, ", ".join(settings.to)
    mail["Date"], mail["Message-ID"] = formatdate(localtime=True), make_msgid(domain=settings.sender.rpartition("@")[2] or None)
    mail.set_content(message.text)
    secure = ssl.create_default_context() if settings.security != "none" else None
    connect = smtplib.SMTP_SSL if settings.security == "ssl" else smtplib.SMTP
    more = {"context": secure} if settings.security == "ssl" else {}
    try:
        with connect(settings.host, settings.port, timeout=TIMEOUT, **more) as server:
            if settings.security == "starttls":
                server.starttls(context=secure)
            if settings.user:
                server.login(settings.user, _secret(settings.password_env or "", "alarms.email.password_env"))
            refused = server.send_message(mail)
    except smtplib.SMTPResponseException as error:
        raise (Refused if error.smtp_code >= 500 else NotNow)(f"the mail server answered {error.smtp_code}") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = sorted({code for code, _ in error.recipients.values()})
        raise (Refused if min(codes) >= 500 else NotNow)(
            f"the mail server answered {', '.join(map(str, codes))} to every address"
        ) from None
    except (smtplib.SMTPException, OSError) as error:
        raise NotNow(f"the mail server {settings.host}:{settings.port} did not answer ({type(error).__name__})") from None
    if refused:
        raise Refused(f"the mail server took the mail for others, not for {', '.join(sorted(refused))}")


def send(way: str, message: Message, settings: AlarmSettings) -> None:
    """Deliver one message. Raises Refused or NotNow; returns within some :data:`PATIENCE` seconds in any case."""
    work: Callable[[], None] = {
        "webhook": lambda: send_webhook(message, settings),
        "email": lambda: send_email(message, settings.email),
    }[way]
    ended: list[Exception | None] = []

    def run() -> None:
        try:
            work()
            ended.append(None)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"alarm by {way}")
    thread.start()
    thread.join(PATIENCE)
    if not ended:
        raise NotNow(f"the receiver of the {way} did not take it within {PATIENCE:.0f} s")
    if isinstance(ended[0], Refused | NotNow):
        raise ended[0]
    if ended[0] is not None:
        raise Refused(f"the {way} could not be made ({type(ended[0]).__name__})")


class Budget:
    """Seconds that a tick may spend on deliveries."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> bool:
        return time.monotonic() < self._end
