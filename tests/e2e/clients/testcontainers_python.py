"""testcontainers for Python: containers of a test's own, networks, waiting for words in the log."""

import urllib.request

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

with DockerContainer("tiny").with_command("sh -c 'echo ready; exec httpd -f -p 80 -h /etc'").with_exposed_ports(80) as web:
    wait_for_logs(web, "ready", timeout=30)
    address = (web.get_container_host_ip(), int(web.get_exposed_port(80)))
    for _ in range(100):
        try:
            page = urllib.request.urlopen(f"http://{address[0]}:{address[1]}/passwd").read()
            break
        except OSError:
            continue
    assert b"root:" in page, page
    code, output = web.exec(["cat", "/etc/hostname"])
    assert code == 0 and output.strip(), output
    stdout, stderr = web.get_logs()
    assert stdout == b"ready\n" and stderr == b"", (stdout, stderr)

with Network() as network:
    server = DockerContainer("tiny").with_command("httpd -f -p 80 -h /etc")
    with server.with_network(network).with_network_aliases("server").with_env("A", "b") as server:
        asks = "sh -c 'until wget -qO- http://server/passwd; do sleep 0.1; done; exec sleep 100'"
        with DockerContainer("tiny").with_network(network).with_command(asks) as client:
            wait_for_logs(client, "root:", timeout=30)
        assert server.exec(["sh", "-c", "echo $A"]).output == b"b\n"
        assert server.exec(["false"]).exit_code == 1

print("done")
