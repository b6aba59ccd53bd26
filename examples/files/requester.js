'use strict';

// Asks for a file five times, without waiting in between.  A plain REQ client: it knows nothing of brokers and services.
//
//     node requester.js PATH [ENDPOINT]

const zmq = require('zmq');

const [path, endpoint = 'tcp://127.0.0.1:60401'] = process.argv.slice(2);
const count = 5;
let received = 0;

const requester = zmq.socket('req');

requester.on('message', (data) => {
  console.log('received', JSON.parse(data));
  received += 1;
  if (received === count) {
    requester.close();
  }
});

requester.connect(endpoint);

for (let number = 1; number <= count; number += 1) {
  console.log('sending request', number);
  requester.send(JSON.stringify({ path }));
}
