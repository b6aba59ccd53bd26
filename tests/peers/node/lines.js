'use strict';

// How a program here talks with whoever started it: `node PROGRAM ENDPOINT OPTIONS`, with OPTIONS a JSON object; orders
// come in as lines of JSON, and what happens goes out as lines of JSON.  It ends with its input.

const readline = require('readline');

const [endpoint, options = '{}'] = process.argv.slice(2);

function say(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

function obey(orders) {
  readline
    .createInterface({ input: process.stdin })
    .on('line', (line) => {
      const order = JSON.parse(line);
      orders[order.do](order);
    })
    .on('close', () => process.exit(0));
}

module.exports = { endpoint, options: JSON.parse(options), say, obey };
