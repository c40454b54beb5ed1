// Every kind of gRPC call, one JSON line for each: see grpc_client.py.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const host = "grpc.example.test"

// Messages are bytes, without a schema.
type raw struct{}

func (raw) Name() string                  { return "raw" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func tell(pairs ...any) {
	facts := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		facts[pairs[i].(string)] = pairs[i+1]
	}
	must(json.NewEncoder(os.Stdout).Encode(facts))
}

func connect(name string) *grpc.ClientConn {
	large := 1 << 30
	connection, err := grpc.Dial(name+":443", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{})),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(large), grpc.MaxCallSendMsgSize(large)))
	must(err)
	return connection
}

func soon(seconds float64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Duration(seconds*float64(time.Second)))
}

func unary(on *grpc.ClientConn, path string, message []byte, options ...grpc.CallOption) ([]byte, error) {
	ctx, cancel := soon(30)
	defer cancel()
	var answer []byte
	err := on.Invoke(ctx, path, &message, &answer, options...)
	return answer, err
}

func stream(ctx context.Context, on *grpc.ClientConn, path string) grpc.ClientStream {
	call, err := on.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	must(err)
	return call
}

func send(call grpc.ClientStream, message []byte) { must(call.SendMsg(&message)) }

func receive(call grpc.ClientStream) (string, error) {
	var answer []byte
	err := call.RecvMsg(&answer)
	return string(answer), err
}

func failure(err error) map[string]any {
	return map[string]any{"code": int(status.Code(err)), "message": status.Convert(err).Message()}
}

func main() {
	client := connect(host)

	var trailer metadata.MD
	answer, err := unary(client, "/test.Service/Unary", []byte("hello"), grpc.Trailer(&trailer))
	must(err)
	tell("unary", string(answer), "authorization", trailer["seen-authorization"][0], "binary", hex.EncodeToString([]byte(trailer["sum-bin"][0])))

	ctx, cancel := soon(20)
	count := stream(ctx, client, "/test.Service/Count")
	send(count, []byte("5"))
	must(count.CloseSend())
	header, err := count.Header()
	must(err)
	counted := []string{}
	for {
		piece, err := receive(count)
		if err == io.EOF {
			break
		}
		must(err)
		counted = append(counted, piece)
	}
	tell("count", counted, "counts", header["counts"][0])

	total := stream(ctx, client, "/test.Service/Total")
	for number := 0; number < 100; number++ {
		send(total, make([]byte, 1000))
	}
	must(total.CloseSend())
	sum, err := receive(total)
	must(err)
	number, err := strconv.Atoi(sum)
	must(err)
	tell("total", number)

	chat := stream(ctx, client, "/test.Service/Chat")
	for number := 0; number < 3; number++ {
		send(chat, []byte(strconv.Itoa(number)))
		heard, err := receive(chat)
		must(err)
		tell("chat", heard)
	}
	must(chat.CloseSend())
	if _, err := receive(chat); err != io.EOF {
		must(fmt.Errorf("the chat goes on: %w", err))
	}
	tell("rest", []string{})
	cancel()

	trailer = nil
	_, err = unary(client, "/test.Service/Fail", nil, grpc.Trailer(&trailer))
	tell("failed", failure(err), "hint", trailer["hint"][0])
	_, err = unary(client, "/test.Service/Nothing", nil)
	tell("unknown", int(status.Code(err)))

	ctx, cancel = soon(20)
	waiting := stream(ctx, client, "/test.Service/Wait")
	send(waiting, []byte("stream"))
	must(waiting.CloseSend())
	_, err = receive(waiting)
	must(err)
	cancel()
	answer, err = unary(client, "/test.Service/WasCancelled", nil)
	must(err)
	tell("cancelled", string(answer))

	ctx, cancel = soon(0.2)
	late := stream(ctx, client, "/test.Service/Wait")
	send(late, nil)
	must(late.CloseSend())
	_, err = receive(late)
	cancel()
	answer, again := unary(client, "/test.Service/WasCancelled", nil)
	must(again)
	tell("deadline", int(status.Code(err)), "cancelled", string(answer))

	large := bytes.Repeat([]byte{7}, 256*65536)
	answer, err = unary(client, "/test.Service/Unary", large)
	must(err)
	tell("large", bytes.Equal(answer, large))

	var group sync.WaitGroup
	same := make([]bool, 200)
	for number := range same {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			message := []byte(strconv.Itoa(number))
			answer, err := unary(client, "/test.Service/Unary", message)
			same[number] = err == nil && bytes.Equal(answer, message)
		}(number)
	}
	group.Wait()
	all := true
	for _, one := range same {
		all = all && one
	}
	tell("parallel", all)

	for _, refused := range []struct{ key, host, path string }{
		{"denied", "denied.example.test", "/test.Service/Unary"},
		{"unreachable", "gone.example.test", "/test.Service/Unary"},
		{"rule", host, "/test.Closed/Call"},
	} {
		var header, trailer metadata.MD
		_, err := unary(connect(refused.host), refused.path, nil, grpc.Header(&header), grpc.Trailer(&trailer))
		if status.Code(err) == codes.OK {
			must(fmt.Errorf("%s was not refused", refused.key))
		}
		reason := append(header["x-postern-reason"], trailer["x-postern-reason"]...)
		tell(refused.key, failure(err), "reason", reason[0])
	}
}
