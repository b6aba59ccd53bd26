'use strict';

// A PIGATO client calls a service in Python: interest.py.

const { Client } = require('pigato');

const client = new Client(process.env.ZMDP_BROKER || 'tcp://127.0.0.1:5555');

function request(payload, done) {
  client.request(
    'interest',
    payload,
    (_, partial) => console.log(`year ${partial.year}: ${partial.balance}`),
    (error, final) => {
      console.log(error ? `${error.code}: ${error.message}` : `interest: ${final.interest}`);
      done();
    },
    { timeout: 10000 },
  );
}

client.on('error', console.error);
client.start();

request({ balance: 1000, percent: 3, years: 3 }, () => {
  request({ balance: 1000, percent: 3, years: 'many' }, () => client.stop());
});
