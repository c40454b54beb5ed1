// An origin for browsers: HTTP/2 and HTTP/1.1 on one port, an API, a stream of lines, events, and a WebSocket that echoes.
// Arguments: port, certificate, key.
const crypto = require('crypto');
const fs = require('fs');
const http2 = require('http2');

const [port, certificate, key] = process.argv.slice(2);
const options = {cert: fs.readFileSync(certificate), key: fs.readFileSync(key), allowHTTP1: true};
const open = {'access-control-allow-origin': '*', 'access-control-allow-headers': '*', 'access-control-allow-methods': '*'};

const seen = {};

const server = http2.createSecureServer(options, async (request, answer) => {
  const path = request.url.split('?')[0];
  if (request.method === 'OPTIONS') {
    answer.writeHead(204, open);
  } else if (path === '/who') {
    answer.writeHead(200, {...open, 'content-type': 'application/json'});
    answer.write(JSON.stringify({authorization: request.headers.authorization || null, version: request.httpVersion}));
  } else if (path === '/echo') {
    let size = 0;
    for await (const piece of request) size += piece.length;
    answer.writeHead(200, open);
    answer.write(String(size));
  } else if (path === '/seen') {
    seen[request.url.split('?')[1]]();
    answer.writeHead(204, open);
  } else if (path === '/lines' || path === '/events') {
    const events = path === '/events';
    answer.writeHead(200, {...open, 'x-content-type-options': 'nosniff', 'content-type': events ? 'text/event-stream' : 'application/x-ndjson'});
    for (let number = 0; number < 3; ++number) {
      answer.write(events ? `data: ${number}\n\n` : `${number}\n`);
      await new Promise(resolve => { seen[path] = resolve; });  // The page has it, and says so.
    }
  } else {
    answer.writeHead(404, open);
  }
  answer.end();
});

server.on('upgrade', (request, socket) => {
  const accept = crypto.createHash('sha1').update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ' + accept + '\r\n\r\n');
  const say = text => socket.write(Buffer.concat([Buffer.from([0x81, Buffer.byteLength(text)]), Buffer.from(text)]));
  say('key: ' + (request.headers.authorization || 'none'));
  socket.on('data', data => {  // One short masked text frame at a time: what the page sends.
    if ((data[0] & 15) !== 1) return socket.end();
    const size = data[1] & 127, mask = data.subarray(2, 6);
    say('heard ' + data.subarray(6, 6 + size).map((byte, index) => byte ^ mask[index % 4]).toString());
  });
  socket.on('error', () => {});
});
server.listen(Number(port), '127.0.0.1');
