'use strict';

// PIGATO workers, one for each service: `services` is an object of name and kind.

const { Worker } = require('pigato');
const { endpoint, options, say, obey } = require('./lines');
const work = require('./work');

const { services, ...conf } = options;
const workers = new Map();

for (const [service, kind] of Object.entries(services)) {
  const worker = new Worker(endpoint, service, conf);
  worker.on('connect', () => say({ event: 'connect', service, name: worker.socketId }));
  worker.on('disconnect', () => say({ event: 'disconnect', service }));
  worker.on('request', (payload, reply, opts) => {
    say({ event: 'request', service, payload, opts, held: worker.reqs.size });
    work[kind](payload, reply);
  });
  worker.start();
  workers.set(service, worker);
}

obey({
  concurrency({ service, limit }) {
    const worker = workers.get(service);
    worker.conf.concurrency = limit;
    worker.heartbeat();
    say({ event: 'announced' });
  },

  stop({ service }) {
    workers.get(service).stop();
  },
});
