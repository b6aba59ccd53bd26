'use strict';

// A plain REQ client, as in many a tutorial: it knows nothing of brokers, and asks for all files at once.

const zmq = require('zmq');
const { endpoint, options, say } = require('./lines');

const requester = zmq.socket('req');
let awaited = options.paths.length;

requester.on('message', (data) => {
  say({ event: 'reply', reply: JSON.parse(data) });
  awaited -= 1;
  if (awaited === 0) {
    requester.close();
  }
});

requester.connect(endpoint);

for (const path of options.paths) {
  requester.send(JSON.stringify({ path }));
}
