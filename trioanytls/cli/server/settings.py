"""What a relay server is to do: put together from options, environment and configuration file, and checked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio
from attrs import field, frozen

import trioanytls
from trioanytls import Config
from trioanytls.cli.common.connection_settings import make_config
from trioanytls.cli.common.errors import InvalidSettings
from trioanytls.cli.common.logging import LogSettings
from trioanytls.cli.common.option_types import ListenAddress, PublicAddress
from trioanytls.cli.common.state_dir import StateDirectory, default_directory
from trioanytls.cli.common.toml_lines import Document
from trioanytls.cli.scheme.load import SchemeFileError, read_scheme
from trioanytls.destination import Destination
from trioanytls.relay import speed_test, udp_over_tcp
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.dial import DestinationDialer
from trioanytls.relay.handler import RelayHandler, SpecialHandler
from trioanytls.relay.refusal_reasons import RefusalReasons
from trioanytls.relay.udp_relay import UDPRelay

from .certificate_files import CertificateFiles
from .client_uri import find_public_address
from .self_signed import keep_certificate, keep_password
from .users import ONLY_USER, VARIABLE, UserSource


class SettingsError(InvalidSettings):
    """The settings of the server are incomplete or contradict each other."""


@frozen(kw_only=True)
class WorkerSettings:
    """What a process serves with. It can be passed to worker processes.

    Attributes:
      host: where to listen; None for all addresses.
      users: name -> password.
      certificate: its own.
      scheme: a padding scheme as text; None for the built-in one.
      proxies: networks whose connections begin with a header of the PROXY protocol.
    """

    host: str | None
    users: Mapping[str, str] = field(repr=False)
    certificate: CertificateFiles
    fallback: Destination | None
    scheme: bytes | None
    policy: AddressPolicy
    proxies: tuple[str, ...]
    connect_timeout: float
    config: Config
    log: LogSettings

    async def serve(
        self,
        port: int,
        control: trioanytls.ServerControl,
        *,
        reuse_port: bool = False,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be the server; see `trioanytls.serve`.

        Raises:
          CertificateFilesError: the certificate cannot be used.
          OSError: the port cannot be listened on.
        """
        fallback = self.fallback
        reasons = RefusalReasons()
        dialer = DestinationDialer(self.policy)
        special_hosts: dict[str, SpecialHandler] = {
            speed_test.HOST: speed_test.serve,
            udp_over_tcp.HOST: UDPRelay(self.policy, self.connect_timeout, reasons, dialer),
        }
        await trioanytls.serve(
            RelayHandler(self.policy, self.connect_timeout, special_hosts, reasons, dialer),
            port,
            host=self.host,
            ssl_context=self.certificate.context(),
            users=self.users,
            padding_scheme=None if self.scheme is None else trioanytls.PaddingScheme.parse(self.scheme),
            fallback=None if fallback is None else trioanytls.relay_to(fallback.host, fallback.port),
            config=self.config,
            control=control,
            trusted_proxies=self.proxies,
            reuse_port=reuse_port,
            task_status=task_status,
        )


@frozen(kw_only=True)
class Secrets:
    """The users and the certificate: what is read again while the server runs.

    Attributes:
      users: where the passwords are.
      certificate: where the certificate is; None for one of our own.
      state: what is kept; None where nothing is.
      host: for whom a certificate of our own is.
    """

    users: UserSource
    certificate: CertificateFiles | None
    state: StateDirectory | None
    host: str

    def read_users(self) -> dict[str, str]:
        """Name -> password.

        Raises:
          UserError: there are none, or a file cannot be used.
        """
        users = self.users.read()
        if not users and self.state is not None:
            return {ONLY_USER: keep_password(self.state)}
        if not users:
            raise SettingsError(
                "there is no password: write one into a file (chmod 600) for --password-file, or into the environment "
                f"variable {VARIABLE}"
            )
        names: dict[str, str] = {}
        for name, password in users.items():
            other = names.setdefault(password, name)
            if other != name:
                raise SettingsError(
                    f"the users {other!a} and {name!a} have the same password, which is all that tells them apart"
                )
        return users

    def read_certificate(self) -> CertificateFiles:
        """The certificate, which is made where it is our own and not there yet.

        Raises:
          StateError: it cannot be kept.
        """
        if self.certificate is not None:
            return self.certificate
        assert self.state is not None  # noqa: S101 - one of both is there
        return keep_certificate(self.state, self.host)


@frozen(kw_only=True)
class ServerSettings:
    """All of it.

    Attributes:
      serving: what each process serves with.
      secrets: where users and certificate are.
      listen, metrics: the addresses.
      workers: how many processes; 1 for this one alone, 0 for one for each processor.
      public: what clients connect to.
      is_guessed: whether nobody has said so.
      print_uri, qr: whether URIs and QR codes are printed; None where it depends.
    """

    serving: WorkerSettings
    secrets: Secrets
    listen: ListenAddress
    metrics: ListenAddress | None
    workers: int
    public: PublicAddress
    is_guessed: bool
    print_uri: bool | None
    qr: bool | None


@frozen
class ParsedOptions:
    """What the options say, and from where.

    Attributes:
      options: by name, as click has converted them.
      document: the configuration file.
      on_command_line: whether an option stands on the command line itself.
      environment: the password in the environment.
    """

    options: Mapping[str, Any] = field(repr=False)
    document: Document | None
    on_command_line: Callable[[str], bool]
    environment: str | None = field(repr=False)

    def chosen(self, *names: str) -> set[str]:
        """Which of some options that exclude each other, or stand for the same, are set; those on the command line push
        aside those of the file.
        """
        there = {name for name in names if self.options[name] not in (None, False)}
        return {name for name in there if self.on_command_line(name)} or there


def collect(given: ParsedOptions) -> ServerSettings:
    """Put the settings together.

    Raises:
      UserError: something is missing or contradicts something else, or a file cannot be used.
    """
    options = given.options
    listen: ListenAddress = options["listen"]
    certificate = _find_certificate(given)
    public = find_public_address(options["public_host"], listen, None if certificate is None else certificate.check())
    secrets = Secrets(
        users=_find_users(given),
        certificate=certificate,
        state=StateDirectory(options["state_dir"] or default_directory()) if certificate is None else None,
        host=public.host,
    )
    config = make_config(given.document, "server", acknowledge="manual", drain_timeout=options["drain_timeout"])
    if config.on_violation == "fallback" and options["fallback"] is None:
        raise SettingsError('on_violation = "fallback" needs a service to hand connections to: --fallback HOST:PORT')
    scheme = None if options["padding_scheme"] is None else _read_scheme(options["padding_scheme"])
    serving = WorkerSettings(
        host=listen.host,
        users=secrets.read_users(),
        certificate=secrets.read_certificate(),
        fallback=options["fallback"],
        scheme=None if scheme is None else scheme.to_bytes(),
        policy=AddressPolicy(options["allow"], options["deny"]),
        proxies=tuple(map(str, options["proxy_protocol"])),
        connect_timeout=options["connect_timeout"],
        config=config,
        log=log_settings(given),
    )
    return ServerSettings(
        serving=serving,
        secrets=secrets,
        listen=listen,
        metrics=options["metrics"],
        workers=options["workers"],
        public=public,
        is_guessed=options["public_host"] is None and listen.is_everywhere,
        print_uri=options["print_uri"],
        qr=options["qr"],
    )


def _read_scheme(path: Path) -> trioanytls.PaddingScheme:
    try:
        return read_scheme(str(path))
    except SchemeFileError as error:
        raise SettingsError(f"--padding-scheme: {error}") from error


def log_settings(given: ParsedOptions) -> LogSettings:
    """How much is said, and how."""
    loudness = given.chosen("quiet", "verbose")
    if len(loudness) > 1:
        raise SettingsError("--quiet and --verbose contradict each other")
    levels = {"quiet": logging.WARNING, "verbose": logging.DEBUG}
    level = next((levels[name] for name in loudness), logging.INFO)
    return LogSettings(level, given.options["log_format"], show_process=given.options["workers"] != 1)


def _find_certificate(given: ParsedOptions) -> CertificateFiles | None:
    """The files; None for a certificate of our own."""
    chosen = given.chosen("cert", "self_signed")
    if len(chosen) > 1:
        raise SettingsError("--self-signed and --cert contradict each other: the certificate is either made, or there")
    if "self_signed" in chosen:
        if given.on_command_line("key"):
            raise SettingsError("--key belongs to --cert; with --self-signed, the key is made")
        return None
    if not chosen:
        key = "--cert FILE" if given.options["key"] is not None else "--cert FILE and --key FILE, or --self-signed"
        raise SettingsError(f"there is no certificate: give {key}")
    # A key of the configuration file does not belong to a certificate from elsewhere.
    together = given.on_command_line("key") or not given.on_command_line("cert")
    return CertificateFiles(given.options["cert"], given.options["key"] if together else None)


def _find_users(given: ParsedOptions) -> UserSource:
    """The command line comes before the environment, and that before the configuration file."""
    options = given.options
    if options["password_insecure"] == "":
        raise SettingsError("the password is empty: --password-insecure has none, and --password-file is better")
    if options["password_insecure"] is not None:
        return UserSource(password=options["password_insecure"])
    files = {name: options[name] for name in ("password_file", "users_file")}
    if any(map(given.on_command_line, files)):
        return UserSource(**{name: path for name, path in files.items() if given.on_command_line(name)})
    if given.environment is not None:
        return UserSource(password=given.environment)
    return UserSource(**files, config=None if given.document is None else given.document.path)
