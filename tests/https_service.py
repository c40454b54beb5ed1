"""A service over HTTPS with a certificate of the test's authority. What it does with a request is the subclass's."""

import http.server
import ssl
import threading


class HttpsService:
    """`serve(handler)` answers one request, by `reply()`; it runs on the connection's own thread."""

    def __init__(self, authority, names):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def serve(self):
                outer.serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, authority.certificate(*names)))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    @staticmethod
    def reply(handler, status, headers, body):
        """`X-Length` among the headers: what an answer to HEAD says instead."""
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)) if handler.command != "HEAD" else headers.get("X-Length", "0"))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)
