'use strict';

// A PIGATO client.  It listens to no 'error' event, as most do not: what PIGATO reports there ends the process.

const { Client } = require('pigato');
const { endpoint, options, say, obey } = require('./lines');

const client = new Client(endpoint, options);

client.on('connect', () => say({ event: 'connect' }));
client.on('disconnect', () => say({ event: 'disconnect' }));
client.start();

obey({
  request({ id, service, payload, opts = {} }) {
    client.request(
      service,
      payload,
      (_, data) => say({ id, event: 'partial', data }),
      (error, data) => say({ id, event: 'final', error, data }),
      opts,
    );
  },

  // PIGATO's stream makes no difference between the final reply and the others.  `beat`: milliseconds between the
  // heartbeats of the request.
  stream({ id, service, payload, beat, opts = {} }) {
    const stream = client.request(service, payload, opts);
    const timer = beat && setInterval(() => stream.heartbeat(), beat);
    stream.on('data', (data) => say({ id, event: 'partial', data }));
    stream.on('error', (error) => say({ id, event: 'error', error }));
    stream.on('end', () => {
      clearInterval(timer);
      say({ id, event: 'end' });
    });
  },
});
