// Every kind of gRPC call, one JSON line for each: see grpc_client.py.
const grpc = require('@grpc/grpc-js');
const HOST = 'grpc.example.test';
const tell = facts => console.log(JSON.stringify(facts));
const same = value => value;
const soon = seconds => ({deadline: Date.now() + seconds * 1000});
const options = {'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1};
const connect = host => new grpc.Client(host + ':443', grpc.credentials.createSsl(), options);
const client = connect(HOST);

function unary(path, message, {on = client, time = 20} = {}) {
  return new Promise((resolve, reject) => {
    let trailers;
    const call = on.makeUnaryRequest(path, same, same, message, new grpc.Metadata(), soon(time), (error, answer) => {
      if (error) reject(error);
      else setImmediate(() => resolve({answer, trailers}));
    });
    call.on('status', status => { trailers = status.metadata; });
  });
}
const failure = error => ({code: error.code, message: error.details});
async function failed(promise) { try { await promise; } catch (error) { return error; } }

async function main() {
  const {answer, trailers} = await unary('/test.Service/Unary', Buffer.from('hello'));
  tell({unary: answer.toString(), authorization: trailers.get('seen-authorization')[0], binary: trailers.get('sum-bin')[0].toString('hex')});

  const count = client.makeServerStreamRequest('/test.Service/Count', same, same, Buffer.from('5'), new grpc.Metadata(), soon(20));
  const counts = new Promise(resolve => count.on('metadata', metadata => resolve(metadata.get('counts')[0])));
  const counted = [];
  for await (const piece of count) counted.push(piece.toString());
  tell({count: counted, counts: await counts});

  tell({total: await new Promise((resolve, reject) => {
    const call = client.makeClientStreamRequest('/test.Service/Total', same, same, new grpc.Metadata(), soon(20), (error, answer) =>
      error ? reject(error) : resolve(Number(answer.toString())));
    for (let number = 0; number < 100; ++number) call.write(Buffer.alloc(1000));
    call.end();
  })});

  const chat = client.makeBidiStreamRequest('/test.Service/Chat', same, same, new grpc.Metadata(), soon(20));
  const heard = chat[Symbol.asyncIterator]();
  for (let number = 0; number < 3; ++number) {
    chat.write(Buffer.from(String(number)));
    tell({chat: (await heard.next()).value.toString()});
  }
  chat.end();
  const rest = [];
  for (let piece; !(piece = await heard.next()).done;) rest.push(piece.value.toString());
  tell({rest});

  const refused = await failed(unary('/test.Service/Fail', Buffer.alloc(0)));
  tell({failed: failure(refused), hint: refused.metadata.get('hint')[0]});
  tell({unknown: (await failed(unary('/test.Service/Nothing', Buffer.alloc(0)))).code});

  const waiting = client.makeServerStreamRequest('/test.Service/Wait', same, same, Buffer.from('stream'), new grpc.Metadata(), soon(20));
  waiting.on('error', () => {});
  await new Promise(resolve => waiting.once('data', resolve));
  waiting.cancel();
  tell({cancelled: (await unary('/test.Service/WasCancelled', Buffer.alloc(0))).answer.toString()});

  const late = client.makeServerStreamRequest('/test.Service/Wait', same, same, Buffer.alloc(0), new grpc.Metadata(), soon(0.2));
  const deadline = await new Promise(resolve => late.on('error', error => resolve(error.code)).resume());
  tell({deadline, cancelled: (await unary('/test.Service/WasCancelled', Buffer.alloc(0))).answer.toString()});

  const large = Buffer.alloc(256 * 65536, 7);
  tell({large: large.equals((await unary('/test.Service/Unary', large, {time: 30})).answer)});

  const numbers = [...Array(200).keys()].map(String);
  const answers = await Promise.all(numbers.map(number => unary('/test.Service/Unary', Buffer.from(number), {time: 30})));
  tell({parallel: answers.every(({answer}, index) => answer.toString() === numbers[index])});

  for (const [key, host] of [['denied', 'denied.example.test'], ['unreachable', 'gone.example.test'], ['rule', HOST]]) {
    const error = await failed(unary(key === 'rule' ? '/test.Closed/Call' : '/test.Service/Unary', Buffer.alloc(0), {on: connect(host)}));
    tell({[key]: failure(error), reason: error.metadata.get('x-postern-reason')[0]});
  }
  process.exit(0);
}
main().catch(error => { console.error(error); process.exit(1); });
