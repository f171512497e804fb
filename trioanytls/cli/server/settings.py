"""The settings of the server, from its options, the environment and the configuration file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, get_args

import trio
from attrs import field, frozen

import trioanytls
from trioanytls import Config, WireFormat
from trioanytls.cli.common.connection_settings import make_config
from trioanytls.cli.common.errors import InvalidSettings
from trioanytls.cli.common.logging import LogSettings
from trioanytls.cli.common.option_types import ListenAddress, PublicAddress
from trioanytls.cli.common.state_dir import StateDirectory, default_directory
from trioanytls.cli.common.toml_lines import Document
from trioanytls.cli.scheme.load import SchemeFileError, read_scheme
from trioanytls.destination import Destination
from trioanytls.relay import AddressPolicy, RelayHandler, speed_test

from .certificate_files import CertificateFiles
from .client_uri import find_public_address
from .self_signed import keep_certificate, keep_password
from .users import ONLY_USER, VARIABLE, UserSource


class SettingsError(InvalidSettings):
    """The settings of the server are incomplete or contradict each other."""


@frozen(kw_only=True)
class WorkerSettings:
    """The settings of one server process. They can be passed to worker processes.

    Attributes:
      host: the address to listen on; None for all addresses.
      users: name -> password.
      certificate: the server's certificate.
      fallback: the service for clients that are not ANYTLS clients.
      scheme: the padding scheme as text; None for the built-in one.
      policy: the destinations that the relay allows.
      proxies: networks whose connections begin with a PROXY protocol header.
      connect_timeout: the timeout for connecting to a destination, in seconds.
      protocols: the wire formats to accept.
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
    protocols: tuple[WireFormat, ...] = get_args(WireFormat)

    async def serve(
        self,
        port: int,
        control: trioanytls.ServerControl,
        *,
        reuse_port: bool = False,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run the server; see `trioanytls.serve`.

        Raises:
          CertificateFilesError: the certificate cannot be used.
          OSError: the server cannot listen on the port.
        """
        fallback = self.fallback
        special_hosts = {speed_test.HOST: speed_test.serve}
        await trioanytls.serve(
            RelayHandler.with_udp(self.policy, self.connect_timeout, special_hosts=special_hosts),
            port,
            host=self.host,
            ssl_context=self.certificate.context(),
            users=self.users,
            padding_scheme=None if self.scheme is None else trioanytls.PaddingScheme.parse(self.scheme),
            fallback=None if fallback is None else trioanytls.relay_to(fallback.host, fallback.port),
            protocols=self.protocols,
            config=self.config,
            control=control,
            trusted_proxies=self.proxies,
            reuse_port=reuse_port,
            task_status=task_status,
        )


@frozen(kw_only=True)
class Secrets:
    """The sources of the users and the certificate, which are read again after SIGHUP.

    Attributes:
      users: the source of the users.
      certificate: the files of the certificate; None for a self-signed one.
      state: the directory of a self-signed certificate; None with `certificate`.
      host: the host name of a self-signed certificate.
    """

    users: UserSource
    certificate: CertificateFiles | None
    state: StateDirectory | None
    host: str

    def read_users(self) -> dict[str, str]:
        """Read the users. Return name -> password.

        Raises:
          UserError: there are none, two have the same password, or a file is invalid.
        """
        users = self.users.read()
        if not users and self.state is not None:
            return {ONLY_USER: keep_password(self.state)}
        if not users:
            raise SettingsError(
                "no password: write one to a file (chmod 600) and pass --password-file, or set the environment "
                f"variable {VARIABLE}"
            )
        names: dict[str, str] = {}
        for name, password in users.items():
            other = names.setdefault(password, name)
            if other != name:
                raise SettingsError(
                    f"the users {other!a} and {name!a} have the same password: each user needs a different one"
                )
        return users

    def read_certificate(self) -> CertificateFiles:
        """Return the certificate. Generate a self-signed one if there is none yet.

        Raises:
          StateError: a self-signed certificate cannot be read or written.
        """
        if self.certificate is not None:
            return self.certificate
        assert self.state is not None  # noqa: S101 - one of both is set
        return keep_certificate(self.state, self.host)


@frozen(kw_only=True)
class ServerSettings:
    """All settings of the server.

    Attributes:
      serving: the settings of each process.
      secrets: the sources of the users and the certificate.
      listen, metrics: the addresses to listen on.
      workers: the number of processes; 1: only the process of the command, 0: one per processor.
      public: the address that clients connect to.
      is_guessed: whether `public` was not given by an option.
      print_uri, qr: whether to print URIs and QR codes; None: depending on the circumstances.
      outbound: the program whose configuration is printed instead of URIs; None: URIs.
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
    outbound: str | None


@frozen
class ParsedOptions:
    """The options of the command, and where they were given.

    Attributes:
      options: name -> value, as converted by click.
      document: the configuration file.
      on_command_line: returns whether an option was given on the command line.
      environment: the password in the environment.
      log: the settings of the log.
    """

    options: Mapping[str, Any] = field(repr=False)
    document: Document | None
    on_command_line: Callable[[str], bool]
    environment: str | None = field(repr=False)
    log: LogSettings = field(factory=LogSettings)

    def chosen(self, *names: str) -> set[str]:
        """Return which of these options are set. Options on the command line override options in the file."""
        given = {name for name in names if self.options[name] not in (None, False)}
        return {name for name in given if self.on_command_line(name)} or given


def collect(given: ParsedOptions) -> ServerSettings:
    """Make the settings from the options.

    Raises:
      UserError: a setting is missing, options contradict each other, or a file is invalid.
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
    config = make_config(
        given.document,
        "server",
        options["extensions"],
        acknowledge="manual",
        drain_timeout=options["drain_timeout"],
    )
    if config.on_violation == "fallback" and options["fallback"] is None:
        raise SettingsError('on_violation = "fallback" requires --fallback HOST:PORT')
    protocols: tuple[WireFormat, ...] = tuple(dict.fromkeys(options["protocol"])) or get_args(WireFormat)
    scheme = None if options["padding_scheme"] is None else _read_scheme(options["padding_scheme"], protocols)
    print_uri, outbound = options["print_uri"], options["outbound"]
    if outbound is not None:
        if "legacy" not in protocols:
            raise SettingsError(
                f"--print {outbound} requires --protocol legacy: {outbound} speaks no other wire format"
            )
        print_uri = print_uri is not False
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
        log=given.log,
        protocols=protocols,
    )
    return ServerSettings(
        serving=serving,
        secrets=secrets,
        listen=listen,
        metrics=options["metrics"],
        workers=options["workers"],
        public=public,
        is_guessed=options["public_host"] is None and listen.is_everywhere,
        print_uri=print_uri,
        qr=options["qr"],
        outbound=outbound,
    )


def _read_scheme(path: Path, protocols: Collection[WireFormat]) -> trioanytls.PaddingScheme:
    try:
        scheme = read_scheme(str(path))
        if "legacy" in protocols:
            scheme.check_for_legacy()
    except SchemeFileError as error:
        raise SettingsError(f"--padding-scheme: {error}") from error
    except trioanytls.SchemeError as error:
        raise SettingsError(f"--padding-scheme: {error}; or accept no others: --protocol anytls1") from error
    return scheme


def _find_certificate(given: ParsedOptions) -> CertificateFiles | None:
    """Return the files of the certificate, None for a self-signed one."""
    chosen = given.chosen("cert", "self_signed")
    if len(chosen) > 1:
        raise SettingsError("--self-signed and --cert are mutually exclusive")
    if "self_signed" in chosen:
        if given.on_command_line("key"):
            raise SettingsError("--key requires --cert; --self-signed generates its own key")
        return None
    if not chosen:
        key = "--cert FILE" if given.options["key"] is not None else "--cert FILE and --key FILE, or --self-signed"
        raise SettingsError(f"no certificate: pass {key}")
    # A key in the configuration file belongs to the certificate there, not to one on the command line.
    together = given.on_command_line("key") or not given.on_command_line("cert")
    return CertificateFiles(given.options["cert"], given.options["key"] if together else None)


def _find_users(given: ParsedOptions) -> UserSource:
    """Return the source of the users: the command line, else the environment, else the configuration file."""
    options = given.options
    if options["password_insecure"] == "":
        raise SettingsError("--password-insecure: the password is empty")
    if options["password_insecure"] is not None:
        return UserSource(password=options["password_insecure"])
    files = {name: options[name] for name in ("password_file", "users_file")}
    if any(map(given.on_command_line, files)):
        return UserSource(**{name: path for name, path in files.items() if given.on_command_line(name)})
    if given.environment is not None:
        return UserSource(password=given.environment)
    return UserSource(**files, config=None if given.document is None else given.document.path)
