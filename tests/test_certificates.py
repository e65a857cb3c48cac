"""Who is let into a federation: a silo that trusts another authority, or whose key nobody registered, is not."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest

pytest.importorskip("flwr", reason='certificates are those of flwr: pip install "fedvlr_jax[flower]"')

from test_flower import wait_for

from fedvlr_jax.deploy.flower.loopback import BIN, loopback

SECONDS = 120.0  # each wait

needs_tools = pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("ssh-keygen")), reason="keys are made by openssl and ssh-keygen"
)


def make_keys(folder):
    """As in docs/deployment.md: two authorities, a certificate of the first for the superlink, a supernode's key."""
    folder.mkdir()
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    new = "req -newkey rsa:2048 -nodes -subj"
    for line in (
        f"openssl {new} /CN=federation -x509 -days 1 -keyout ca.key -out ca.pem",
        f"openssl {new} /CN=others -x509 -days 1 -keyout other.key -out other.pem",
        f"openssl {new} /CN=superlink -keyout superlink.key -out superlink.csr",
        "openssl x509 -req -in superlink.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile names "
        "-out superlink.pem",
        "ssh-keygen -q -t ecdsa -b 384 -f key -N",
    ):
        words = line.split() + ([""] if line.startswith("ssh") else [])
        subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.mark.slow
@needs_tools
def test_a_supernode_with_a_wrong_certificate_or_key_is_refused_and_says_so(tmp_path):
    keys = make_keys(tmp_path / "keys")

    def listens(port):
        with socket.socket() as found:
            return found.connect_ex(("127.0.0.1", port)) == 0

    with loopback(tmp_path, 2) as federation:
        processes, (link, *ports) = federation.processes, federation.ports

        def node(name, authority, port):
            return processes.start(
                name,
                [
                    *(str(BIN / "flower-supernode"), f"--superlink=127.0.0.1:{link}", f"--port={port}"),
                    *(f"--root-certificates={keys / authority}", f"--auth-supernode-private-key={keys / 'key'}"),
                ],
            )

        processes.start(
            "superlink",
            [
                *(str(BIN / "flower-superlink"), "--host=127.0.0.1", f"--port={link}"),
                *(f"--ssl-ca-certfile={keys / 'ca.pem'}", f"--ssl-certfile={keys / 'superlink.pem'}"),
                *(f"--ssl-keyfile={keys / 'superlink.key'}", "--enable-supernode-auth"),
                "--disable-runtime-dependency-installation",
            ],
        )
        wait_for(lambda: listens(link), SECONDS)
        refused = {"other.pem": "CERTIFICATE_VERIFY_FAILED", "ca.pem": "Failed to activate SuperNode"}
        for (authority, said), port in zip(refused.items(), ports, strict=True):
            process = node(authority, authority, port)
            wait_for(lambda process=process: process.poll() is not None, SECONDS)
            assert process.returncode != 0
            assert said in processes.log(authority).read_text()
