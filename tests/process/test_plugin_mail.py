"""mail() and exceptions() (issue 3)."""

from __future__ import annotations

import contextlib
import email
import email.policy
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.plugins.exceptions import MASK, masked

from ..harness import Script, Workshop, connect, descriptors, eventually, fetch

SMTP = """
import asyncio, sys
from aiosmtpd.handlers import Debugging
from aiosmtpd.smtp import SMTP
async def main():
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Debugging(sys.stdout)), "127.0.0.1", 0)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

SMTP_TLS = """
import asyncio, ssl, sys
from aiosmtpd.handlers import Debugging
from aiosmtpd.smtp import SMTP, AuthResult
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1] + ".pem", sys.argv[1] + ".key")
def login(server, session, envelope, mechanism, data):
    print("LOGIN", data.login.decode(), data.password.decode(), flush=True)
    return AuthResult(success=True)
def serve():
    return SMTP(Debugging(sys.stdout), tls_context=context, require_starttls=True, authenticator=login,
                auth_required=True)
async def main():
    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

SERVER = """
m = cluster("app:app").set(workers=1).use({plugins})
m.on("exception report", lambda path: say("REPORT", os.path.relpath(path)))
m.on("ready", lambda: say("THREADS", len(os.listdir("/proc/self/task"))))
trace(m).listen(0, "127.0.0.1")
"""


def raising(server: Script, count: int = 1) -> None:
    """Have the application raise."""
    for _ in range(count):
        assert fetch(server.address(), "/raise")[0] == 500


def end(server: Script) -> None:
    """Close it; it had one thread all the time."""
    server.signal(signal.SIGQUIT)
    server.assert_gone()


def threads(server: Script) -> int:
    """Native threads of the master."""
    with open(f"/proc/{server.pid}/status") as file:
        return int(next(line for line in file if line.startswith("Threads:")).split()[1])


def test_mail_through_smtp(shop: Workshop) -> None:
    """The first exception is mailed at once, those of the interval in the next mail, the rest at the end."""
    shop.write("smtp.py", SMTP)
    smtp = shop.run(sys.executable, "smtp.py")
    port = smtp.wait_for(r"PORT (\d+)")[1]
    server = shop.script(SERVER.format(plugins=(
        f'package.mail(["a@example.com", "b@example.com"], host="localhost", port={port}, interval=600)'))).ready()
    raising(server)
    smtp.wait_for(r"\[cluster on .*\] worker 0 uncaught exception")
    smtp.wait_for(r"^To: a@example.com, b@example.com$")
    smtp.wait_for(r"^\(pid \d+, up \d+\.\d s; while: GET /raise\)$")
    smtp.wait_for(r"^RuntimeError: raised on purpose$")
    raising(server, 30)
    assert threads(server) == 1
    for worker in server.workers():  # the helper's connection is the master's alone
        assert len([name for name in descriptors(worker) if name.startswith("socket")]) <= 4
    end(server)
    smtp.wait_for("and 10 more$")
    assert len([line for line in smtp.lines if line.startswith("Subject:")]) == 2
    smtp.process.terminate()
    smtp.wait_exit()


def test_what_fails_while_the_cluster_closes_is_in_one_mail(shop: Workshop) -> None:
    """Fault: each exception of the drain was a mail of its own."""
    shop.write("sendmail", "#!/bin/sh\ncat >> mails\n").chmod(0o755)
    shop.write("failing.py", """
        import os, gevent
        from tracing import say
        def app(environ, start_response):
            say("IN FLIGHT")
            while not os.path.exists("fail"):
                gevent.sleep(0.01)
            raise RuntimeError("raised on purpose")
    """)
    server = shop.script(SERVER.replace("app:app", "failing:app").format(
        plugins='package.mail("a@example.com", sendmail="./sendmail")')).ready()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server.address())) for _ in range(12)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for("IN FLIGHT", 12)
        server.signal(signal.SIGQUIT)
        server.wait_for("EVENT .* closing")
        shop.write("fail", "")
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 500")
    server.assert_gone()
    mails = (shop.directory / "mails").read_text()
    assert mails.count("Subject:") == 1
    text = bytes(email.message_from_string(mails).get_payload(decode=True)).decode()
    assert text.count("\nRuntimeError: raised on purpose\n") == 12


def test_text_that_cannot_be_encoded(shop: Workshop) -> None:
    """Fault: after an exception about a file name that is not UTF-8 no mail got out any more; nor with such an
    environment."""
    shop.write("sendmail", "#!/bin/sh\ncat >> mails\n").chmod(0o755)
    shop.write("odd.py", """
        def app(environ, start_response):
            raise ValueError("bad \\udcff name" if environ["PATH_INFO"] == "/odd" else "plain")
    """)
    server = shop.script(SERVER.replace("app:app", "odd:app").format(plugins=(
        'package.logger(), package.exceptions(), package.mail("a@example.com", sendmail="./sendmail", interval=0)')),
        environment={"ODD": "\udcff"}).ready()
    mails = shop.directory / "mails"
    for number, path in enumerate(("/odd", "/plain"), start=1):
        assert fetch(server.address(), path)[0] == 500
        eventually(lambda n=number: mails.exists() and mails.read_text().count("Subject:") == n, f"mail {number}")
    server.wait_for(r"^REPORT exceptions/\S+-ValueError.txt", 2)
    end(server)
    first, second = ("From:" + mail for mail in mails.read_text().split("From:")[1:])
    message = email.message_from_string(first, policy=email.policy.default)
    assert message["subject"].endswith(r"ValueError: bad \udcff name")
    assert r"ValueError: bad \udcff name" in message.get_content()
    assert "ODD=\\udcff\n" in message.get_content()
    assert "ValueError: plain" in email.message_from_string(second, policy=email.policy.default).get_content()
    reports = "".join(path.read_text(encoding="utf-8") for path in (shop.directory / "exceptions").iterdir())
    assert r"ValueError: bad \udcff name" in reports
    assert r"ValueError: bad \udcff name" in (shop.directory / "logs/master.log").read_text(encoding="utf-8")


def test_mail_through_a_command_with_the_richer_report(shop: Workshop) -> None:
    """A sendmail command gets the mail and the addresses; with exceptions() the report is its."""
    command = shop.write("sendmail", '#!/bin/sh\nenv > /dev/null\n{ echo "ARGS $@"; cat; } >> mails\n')
    command.chmod(0o755)
    server = shop.script(SERVER.format(plugins=(
        f'package.exceptions(), package.mail("a@example.com", sendmail={str(command)!r})')),
        environment={"MY_SECRET": "hush", "DATABASE": "postgres://me:hush@db/x", "PLAIN": "seen"}).ready()
    raising(server)
    mails = shop.directory / "mails"
    eventually(lambda: mails.exists() and "PLAIN=3Dseen" in mails.read_text(), "a mail")
    first, _, mail = mails.read_text().partition("\n")
    text = bytes(email.message_from_string(mail).get_payload(decode=True)).decode()
    assert first == "ARGS a@example.com" and "hush" not in text and "\nMY_SECRET=" + MASK in text
    end(server)


@pytest.mark.parametrize("subject, expected", [
    ("{type} on {host}: {message} w{worker}", "ValueError on HOST: bad\\x0d Bcc: x@example.com w0"),
    ("[shop {{1}}]", "[shop {1}] worker 0 uncaught exception ValueError: bad\\x0d Bcc: x@example.com"),
])
def test_a_subject_with_placeholders(shop: Workshop, subject: str, expected: str) -> None:
    """It is the whole subject; one without any is followed by what happened. A message adds no header. The report has
    a first line of its own."""
    shop.write("sendmail", "#!/bin/sh\ncat >> mails\n").chmod(0o755)
    shop.write("odd.py", """
        def app(environ, start_response):
            raise ValueError("bad\\r\\nBcc: x@example.com")
    """)
    server = shop.script(SERVER.replace("app:app", "odd:app").format(plugins=(
        'package.exceptions(subject="{type} in {doing}"), '
        f'package.mail("a@example.com", sendmail="./sendmail", subject={subject!r})'))).ready()
    assert fetch(server.address(), "/odd")[0] == 500
    path = shop.directory / server.wait_for(r"^REPORT (exceptions/\S+)")[1]
    end(server)
    message = email.message_from_string((shop.directory / "mails").read_text(), policy=email.policy.default)
    assert message["subject"].strip() == expected.replace("HOST", socket.gethostname()) and message["bcc"] is None
    assert path.read_text().startswith("ValueError in GET /odd\n")
    assert message.get_content().startswith("ValueError in GET /odd\n")


def test_a_handled_exception_is_reported_with_its_data(shop: Workshop) -> None:
    """It is mailed, and written, with the table; the answer is the application's, and the error can be raised again."""
    shop.write("sendmail", "#!/bin/sh\ncat >> mails\n").chmod(0o755)
    shop.write("careful.py", """
        import cluster
        def app(environ, start_response):
            cluster.worker().log.error("about to fail")
            try:
                raise KeyError("order")
            except KeyError as error:
                before = error.__traceback__
                sent = cluster.worker().report(error, {"order": 4711, "who": "somebody"})
                assert error.__traceback__ is before
            start_response("200 OK", [])
            return [repr(sent).encode()]
    """)
    for plugins in ("", "package.exceptions(), "):
        server = shop.script(SERVER.replace("app:app", "careful:app").format(
            plugins=plugins + 'package.mail("a@example.com", sendmail="./sendmail")').replace("trace(m)", """
m.on("worker exception", lambda worker, error: say("ERROR", error["fatal"], error["handled"], error["data"]))
trace(m)""")).ready()
        assert fetch(server.address(), "/") == (200, b"True")
        server.wait_for("^ERROR False True {'order': '4711', 'who': 'somebody'}$")
        end(server)
        mails = shop.directory / "mails"
        message = email.message_from_string(mails.read_text(), policy=email.policy.default)
        mails.unlink()
        assert "worker 0 reported KeyError: 'order'" in message["subject"]
        text = message.get_content()
        assert "\norder  4711\nwho    somebody\n" in text and "\nKeyError: 'order'\n" in text
        assert ("\nData\n----\n" in text) is bool(plugins)
        assert ("about to fail" in text) is bool(plugins)  # this worker's own line
        if plugins:
            own = text.partition("\nLog of the worker\n")[2].partition("\n\n")[0]
            assert own.count("\n[") == 1 and own.endswith("[ERROR] about to fail")


def test_reports_do_not_pile_up_while_the_master_does_not_read(shop: Workshop) -> None:
    """A worker whose master is stopped loses reports instead of queueing them, says so, and goes on serving."""
    shop.write("busy.py", """
        import cluster
        def app(environ, start_response):
            worker = cluster.worker()
            data = {str(row): "x" * 1000 for row in range(100)}
            sent = sum(worker.report(ValueError("bad"), data) for _ in range(200))
            start_response("200 OK", [])
            return [b"%d" % sent]
    """)
    server = shop.script(SERVER.replace("app:app", "busy:app").format(plugins="package.exceptions()")).ready()
    address = server.address()
    server.signal(signal.SIGSTOP)
    try:
        sent = [int(fetch(address, "/")[1]) for _ in range(2)]
    finally:
        server.signal(signal.SIGCONT)
    assert 5 <= sent[0] < 60 and sent[1] == 0  # 100 kB each: 1 MB of them, and what the kernel takes
    end(server)


def certify(folder: Path, name: str, host: str, ca: str | None = None) -> None:
    """Make NAME.pem and NAME.key for *host*, signed by the authority *ca* or by itself."""
    run = functools.partial(subprocess.run, cwd=folder, check=True, capture_output=True)
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
           f"/CN={name}", "-keyout", f"{name}.key"]
    if ca is None:
        run([*new, "-x509", "-days", "2", "-addext", f"subjectAltName=DNS:{host}",
             "-addext", "keyUsage=digitalSignature,keyCertSign", "-out", f"{name}.pem"])  # as Python 3.13 insists
        return
    run([*new, "-out", f"{name}.csr"])
    (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{host}\nauthorityKeyIdentifier=keyid\n")
    run(["openssl", "x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
         "-CAcreateserial", "-extfile", f"{name}.ext", "-out", f"{name}.pem"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority `ca`, certificates `good` and `other` by it, and a self-signed `self`."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is missing")
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder, "ca", "ca.example")
    certify(folder, "good", "localhost", ca="ca")
    certify(folder, "other", "other.example", ca="ca")
    certify(folder, "self", "localhost")
    return folder


@pytest.mark.parametrize("name, tls, trusted, refused", [
    ("good", '"ca.pem"', "", ""), ("self", '"self.pem"', "", ""), ("good", "True", "ca.pem", ""),
    ("good", "True", "", "certificate verify failed"), ("self", '"ca.pem"', "", "certificate verify failed"),
    ("other", '"ca.pem"', "", "Hostname mismatch"),
])
def test_mail_verifies_the_certificate(
    shop: Workshop, certificates: Path, name: str, tls: str, trusted: str, refused: str
) -> None:
    """Fault: with tls=True user and password were sent to whoever answered. *trusted*: what the system trusts."""
    shop.write("smtp.py", SMTP_TLS)
    smtp = shop.run(sys.executable, "smtp.py", str(certificates / name))
    port = smtp.wait_for(r"PORT (\d+)")[1]
    shutil.copy(certificates / "ca.pem", shop.directory)
    shutil.copy(certificates / "self.pem", shop.directory)
    server = shop.script(SERVER.format(plugins=(
        f'package.mail("a@example.com", port={port}, user="me", password="hush", tls={tls})')),
        environment={"SSL_CERT_FILE": str(certificates / (trusted or "self.key")), "SSL_CERT_DIR": "/nowhere"}).ready()
    raising(server)
    if refused:
        server.wait_for(f"^cluster: mail: SSLCertVerificationError: .*{refused}")
    else:
        smtp.wait_for("^RuntimeError: raised on purpose$")
        assert "LOGIN me hush" in smtp.lines
    end(server)
    assert refused == "" or "LOGIN" not in smtp.output
    smtp.process.terminate()
    smtp.wait_exit()


@pytest.mark.parametrize("plugin, reason", [
    ('package.mail("a@example.com", port=1)', "mail: ConnectionRefusedError"),
    ('package.mail("a@example.com", host="no.such.host.invalid")', "mail: gaierror"),
    ('package.mail("a@example.com", sendmail="/bin/false")', "mail: OSError: /bin/false ended with 1"),
])
def test_failures_are_reported_once_and_harm_nothing(shop: Workshop, plugin: str, reason: str) -> None:
    """No server, no such host, a command that fails."""
    server = shop.script(SERVER.format(plugins=plugin.replace(")", ", interval=0)"))).ready()
    raising(server, 3)
    server.wait_for(reason)
    assert server.get()
    end(server)
    assert len([line for line in server.lines if reason in line]) == 1


@pytest.mark.parametrize("plugin", [
    'mail("nobody")', "mail([])", 'mail("a@b\\r\\nBcc: c@d")', 'mail("a@b", interval=-1)',
    'mail("a@b", tls=1)', 'mail("a@b", tls="no-such.pem")',
    'mail("a@b", sendmail="/no/such")', "exceptions(lines=-1)", "exceptions(keep=0)",
    'exceptions("app.py/x")',
])
def test_wrong_options(shop: Workshop, plugin: str) -> None:
    """Said at once."""
    server = shop.script(SERVER.format(plugins="package." + plugin))
    assert server.wait_exit() == 2
    server.wait_for("^cluster: (mail|exceptions): ")
    assert "Traceback" not in server.output


def test_exceptions_writes_reports(shop: Workshop) -> None:
    """A 0600 file with everything that helps, once per traceback; the oldest go."""
    server = shop.script(SERVER.format(plugins='package.logger(), package.exceptions(lines=5, keep=1)')).ready()
    raising(server, 3)
    path = shop.directory / server.wait_for(r"^REPORT (exceptions/\S+-RuntimeError.txt)")[1]
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    for expected in ("worker 0 uncaught exception RuntimeError: raised on purpose\n",
                     "\nwhile: GET /raise\n", "\n\nTraceback (most recent", "\nWorker\n", "id 0, pid ",
                     "\nMaster\n", "listening on 127.0.0.1:", "\nLog\n",
                     "[INFO] worker 0 ready\n", "\nEnvironment\n", "PATH="):
        assert expected in text, expected
    assert len([line for line in server.lines if line.startswith("REPORT")]) == 1
    assert re.search(rf"^uid {os.geteuid()}, memory \d+\.\d MB\nup ", text, re.MULTILINE)  # the worker's
    assert re.search(rf"^uid {os.geteuid()}, memory \d+\.\d MB\ncommand: .*\.py.*\ndirectory: "
                     rf"{re.escape(str(shop.directory))}\nhost {re.escape(socket.gethostname())}, load \d+\.\d\d ",
                     text, re.MULTILINE)
    end(server)


def test_exceptions_keeps_the_newest_and_foreign_files(shop: Workshop) -> None:
    """Fault: files of others in the directory were counted, and deleted."""
    shop.write("kinds.py", """
        from app import app as ordinary
        class Plain(Exception): pass
        class Größe(Exception): pass
        class Last(Exception): pass
        def app(environ, start_response):
            for kind in (Plain, Größe, Last):
                if environ["PATH_INFO"] == "/" + kind.__name__[0]:
                    raise kind("on purpose")
            return ordinary(environ, start_response)
    """)
    foreign = {"1-important.txt", "zz.txt", "20260101-000000-important.txt"}
    for name in foreign:
        shop.write(f"data/{name}", "mine")
    server = shop.script(SERVER.replace("app:app", "kinds:app").format(
        plugins='package.exceptions("data", keep=2)')).ready()
    for path in ("/P", "/G", "/L"):
        assert fetch(server.address(), path)[0] == 500
    server.wait_for(r"^REPORT data/\S+-Last\.txt", 1)
    names = {path.name for path in (shop.directory / "data").iterdir()}
    assert names > foreign
    assert sorted(name.rpartition("-")[2] for name in names - foreign) == ["Gre.txt", "Last.txt"]
    end(server)


@pytest.mark.parametrize("name", [
    "API_KEY", "MySecret", "PASSWORD", "DB_PASSWD", "AUTH", "X_TOKEN", "SESSION_ID", "DSN", "AWS_SECRET_ACCESS_KEY",
    "cookie", "DB_PASS", "SSH_PASSPHRASE", "JWT", "SLACK_WEBHOOK_URL",
])
def test_what_looks_like_a_secret_is_masked(name: str) -> None:
    """By name; and passwords in addresses whatever the name."""
    environment: dict[str, Any] = {name: "hush", "URL": "redis://u:hush@h:1/0?x=1", "LANG": "C"}
    assert masked(environment) == dict(sorted(
        {name: MASK, "URL": f"redis://{MASK}@h:1/0?x=1", "LANG": "C"}.items()))


@pytest.mark.parametrize("value, shown", [
    ("postgres://u:hu/sh@hu:sh@db/x", f"postgres://{MASK}@db/x"),
    ("redis://:hush@a, redis://hush@b", f"redis://{MASK}@a, redis://{MASK}@b"),
    ("Server=x;Password=hush;Port=1", f"Server=x;Password={MASK}"),
    ('{"user": "u", "api_key": "hush"}', f'{{"user": "u", "api_key":{MASK}'),
    ("Authorization: Bearer hush", f"Authorization:{MASK}"),
    ("-v --db-password hush", f"-v --db-password {MASK}"),
    ("token=hu\nsh", f"token={MASK}"),
    ("/opt/key:/usr/bin", "/opt/key:/usr/bin"),
])
def test_secrets_within_values_are_masked(value: str, shown: str) -> None:
    """Fault: of a password with a slash or an @ in an address, and of ``password=…`` in a value, a part was mailed."""
    assert masked({"VALUE": value}) == {"VALUE": shown}
