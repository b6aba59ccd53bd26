'use strict';

// PIGATO's own broker, and its directory of services.

const { Broker, services } = require('pigato');
const { endpoint, options, say, obey } = require('./lines');

const broker = new Broker(endpoint, { intch: 'tcp://127.0.0.1:*', ...options });

broker.on('start', () => {
  const bound = broker.socket.last_endpoint;
  const directory = new services.Directory(bound, {
    intch: broker.pub.last_endpoint,
    onStart: () => say({ event: 'start', endpoint: bound }),
  });
  directory.start();
});
broker.start();

obey({});
