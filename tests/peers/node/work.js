'use strict';

// What the workers do.  A service has one of these kinds; times are in seconds.

const { say } = require('./lines');

module.exports = {
  echo(payload, reply) {
    reply.end(payload);
  },

  count(n, reply) {
    for (let i = 0; i < n; i++) {
      reply.write(i);
    }
    reply.end(n);
  },

  fail(error, reply) {
    reply.error(error);
  },

  reject(reason, reply) {
    reply.reject(reason);
  },

  nap(seconds, reply) {
    setTimeout(() => reply.end(seconds), seconds * 1000);
  },

  // Partial replies for as long as somebody wants them.
  tick(seconds, reply) {
    let ticks = 0;
    const timer = setInterval(() => {
      if (reply.active()) {
        reply.write(ticks++);
      } else {
        clearInterval(timer);
        say({ event: 'inactive' });
      }
    }, seconds * 1000);
  },
};
