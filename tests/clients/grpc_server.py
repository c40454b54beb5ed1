"""A gRPC service without a schema: messages are bytes. Arguments: port, certificate, key."""

import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    """The message back, and the credential that came with it."""
    context.set_trailing_metadata((("seen-authorization", dict(context.invocation_metadata()).get("authorization", "none")), ("sum-bin", b"\x00\xff")))
    return request


def count(request, context):
    context.send_initial_metadata((("counts", "up"),))
    for number in range(int(request)):
        yield b"%d" % number


def total(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def chat(requests, context):
    for request in requests:
        yield b"heard " + request


def failing(request, context):
    context.set_trailing_metadata((("hint", "ask later"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich: 100%")


def wait(request, context):
    """Never answers; ends when the client has given up."""
    context.add_callback(cancelled.set)
    if request == b"stream":
        yield b"first"
    cancelled.wait(20)


def was_cancelled(request, context):
    found = cancelled.wait(20)
    cancelled.clear()
    return b"yes" if found else b"no"


class Service(grpc.GenericRpcHandler):
    METHODS = {"Unary": grpc.unary_unary_rpc_method_handler(unary), "Count": grpc.unary_stream_rpc_method_handler(count),
               "Total": grpc.stream_unary_rpc_method_handler(total), "Chat": grpc.stream_stream_rpc_method_handler(chat),
               "Fail": grpc.unary_unary_rpc_method_handler(failing), "Wait": grpc.unary_stream_rpc_method_handler(wait),
               "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled)}

    def service(self, details):
        return self.METHODS.get(details.method.rpartition("/")[2])


port, certificate, key = sys.argv[1:]
server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
server.add_generic_rpc_handlers((Service(),))
with open(key, "rb") as secret, open(certificate, "rb") as public:
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(secret.read(), public.read())]))
server.start()
server.wait_for_termination()
