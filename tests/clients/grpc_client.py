"""Every kind of gRPC call, one JSON line for each. The same as grpc_client.js and grpc_client.go, so that one test reads all."""

import json
import queue

import grpc

HOST = "grpc.example.test"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def tell(**facts):
    print(json.dumps(facts), flush=True)


def failure(error):
    return {"code": error.code().value[0], "message": error.details()}


channel = grpc.secure_channel(f"{HOST}:443", grpc.ssl_channel_credentials(), OPTIONS)
unary = channel.unary_unary("/test.Service/Unary")

answer, call = unary.with_call(b"hello", timeout=20)
trailers = dict(call.trailing_metadata())
tell(unary=answer.decode(), authorization=trailers["seen-authorization"], binary=trailers["sum-bin"].hex())

stream = channel.unary_stream("/test.Service/Count")(b"5", timeout=20)
tell(count=[piece.decode() for piece in stream], counts=dict(stream.initial_metadata())["counts"])

tell(total=int(channel.stream_unary("/test.Service/Total")((bytes(1000) for _ in range(100)), timeout=20)))


questions = queue.SimpleQueue()
chat = channel.stream_stream("/test.Service/Chat")(iter(questions.get, None), timeout=20)
for number in range(3):
    questions.put(b"%d" % number)
    tell(chat=next(chat).decode())
questions.put(None)
tell(rest=[piece.decode() for piece in chat])

try:
    channel.unary_unary("/test.Service/Fail")(b"", timeout=20)
except grpc.RpcError as error:
    tell(failed=failure(error), hint=dict(error.trailing_metadata())["hint"])

try:
    channel.unary_unary("/test.Service/Nothing")(b"", timeout=20)
except grpc.RpcError as error:
    tell(unknown=error.code().value[0])

was_cancelled = channel.unary_unary("/test.Service/WasCancelled")
stream = channel.unary_stream("/test.Service/Wait")(b"stream", timeout=20)
next(stream)
stream.cancel()
tell(cancelled=was_cancelled(b"", timeout=20).decode())

try:
    next(channel.unary_stream("/test.Service/Wait")(b"", timeout=0.2))
except grpc.RpcError as error:
    tell(deadline=error.code().value[0], cancelled=was_cancelled(b"", timeout=20).decode())

large = bytes(range(256)) * 65536
tell(large=unary(large, timeout=30) == large)

calls = [unary.future(b"%d" % number, timeout=30) for number in range(200)]
tell(parallel=[call.result().decode() for call in calls] == [str(number) for number in range(200)])

for key, host in (("denied", "denied.example.test"), ("unreachable", "gone.example.test"), ("rule", HOST)):
    try:
        grpc.secure_channel(f"{host}:443", grpc.ssl_channel_credentials()).unary_unary("/test.Closed/Call" if key == "rule" else "/test.Service/Unary")(
            b"", timeout=20)
    except grpc.RpcError as error:
        tell(**{key: failure(error)}, reason=dict(error.trailing_metadata()).get("x-postern-reason"))
