#!/usr/bin/env python3
"""The ruler must notice a proxy that does not do its work: each of these runs has to be called void."""

import os
import pathlib
import shutil
import sys
import unittest

import peers
import run

SHORT = ["--connections", "2", "--requests", "20"]


class ForgetfulNginx(peers.Nginx):
    def configuration(self, setting, port):
        return super().configuration(setting, port).replace(f'proxy_set_header Authorization "Bearer {peers.SECRET}";', "")


class UntrustingNginx(peers.Nginx):
    """Trusts a certificate that has nothing to do with the origin's."""

    def configuration(self, setting, port):
        peers.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(setting.file("other.key")),
                      "-out", str(setting.file("other.pem")), "-days", "2", "-subj", "/CN=another CA")
        return super().configuration(setting, port).replace(str(setting.file("ca.pem")), str(setting.file("other.pem")))


class TheRuler(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        run.build()
        directory = run.BUILD / f"test-{os.getpid()}"
        directory.mkdir(parents=True)
        peers.make_certificates(directory)
        cls.origin = run.Origin(directory, 0)
        cls.setting = peers.Setting(directory, pathlib.Path("none"), run.BUILD / "bench-load", cls.origin.port, max(os.sched_getaffinity(0)),
                                    0, pathlib.Path("/usr/lib/nginx/modules"))

    @classmethod
    def tearDownClass(cls):
        cls.origin.end()
        shutil.rmtree(cls.setting.directory, ignore_errors=True)

    def measure(self, contender, *options):
        return run.measure(self.setting, self.origin, contender, False, [*SHORT, *options])

    def test_counts_every_request_and_its_cpu_time(self):
        for contender in (peers.Nginx(), peers.HAProxy()):
            result = self.measure(contender)
            self.assertEqual(result.load["requests"], 20)
            self.assertEqual(result.origin["requests"], 20)
            self.assertGreater(result.cpu_ns, 20_000)

    def test_every_byte_of_a_transfer_is_counted(self):
        down = self.measure(peers.Nginx(), "--mode", "download", "--path", "/bytes/1000003")
        self.assertEqual(down.load["bytes"], 20 * 1000003)
        up = self.measure(peers.HAProxy(), "--mode", "upload", "--path", "/sink", "--body-bytes", "1000003")
        self.assertEqual(up.origin["received"], 20 * 1000003)

    def test_a_connection_of_its_own_means_a_handshake_of_its_own(self):
        fresh = self.measure(peers.Nginx(), "--mode", "newconn", "--no-resume")
        self.assertEqual(fresh.load["resumed"], 0)
        resumed = self.measure(peers.Nginx(), "--mode", "newconn", "--resume", "--warmup-requests", "4")
        self.assertEqual(resumed.load["resumed"], 20)

    def test_a_proxy_that_does_not_inject_is_void(self):
        with self.assertRaisesRegex(run.Void, "20 of 20 requests had no credential"):
            self.measure(ForgetfulNginx())

    def test_a_credential_on_a_passed_through_request_is_void(self):
        with self.assertRaisesRegex(run.Void, "20 passed-through requests had a credential"):
            self.measure(peers.Nginx(), "--path", "/open/small")

    def test_refused_requests_are_void(self):
        with self.assertRaisesRegex(run.Void, "requests failed.*502"):
            self.measure(UntrustingNginx())

    def test_a_load_that_cannot_start_is_void(self):
        with self.assertRaisesRegex(run.Void, "no START from the load: .*unknown mode"):
            self.measure(peers.Nginx(), "--mode", "nonsense")


if __name__ == "__main__":
    sys.exit(unittest.main())
