'use strict';

// A PIGATO worker, and a service for Python: caller.py.

const { Worker } = require('pigato');

const worker = new Worker(process.env.ZMDP_BROKER || 'tcp://127.0.0.1:5555', 'words', { concurrency: 10 });

worker.on('request', (text, reply) => {
  if (typeof text !== 'string') {
    reply.error({ code: 'INVALID_ARGUMENT', message: 'words wants a text' });
    return;
  }
  const words = text.split(/\s+/);
  words.forEach((word) => reply.write(word));
  reply.end({ words: words.length });
});

worker.on('error', console.error);
worker.start();
