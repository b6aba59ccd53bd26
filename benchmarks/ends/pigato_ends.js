'use strict';

// PIGATO: its broker, its worker, its client, with the settings that they have by default.  end.py tells how the ends of
// the benchmark talk with it, and what the load is.  There are no streams: PIGATO has no flow control, and of 10,000
// partial replies that its worker writes as fast as it can, some get lost.

const readline = require('readline');
const { Broker, Client, Worker } = require('pigato');

const TIMEOUT = 60000;

const [role, text] = process.argv.slice(2);
const options = JSON.parse(text);

function say(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

function now() {
  return Number(process.hrtime.bigint()) / 1e9;
}

// Resolves when this many emitters have said this.
function all(emitters, event) {
  return Promise.all(emitters.map((each) => new Promise((resolve) => each.once(event, resolve))));
}

function many(number, make) {
  return Array.from({ length: number }, make);
}

async function beBroker() {
  const broker = new Broker('tcp://127.0.0.1:*', { intch: 'tcp://127.0.0.1:*' });
  const started = all([broker], 'start');
  broker.start();
  await started;
  say({ address: broker.socket.last_endpoint });
}

async function beWorker({ address, workers: number }) {
  const workers = many(number, () => new Worker(address, 'echo'));
  workers.forEach((worker) => worker.on('request', (payload, reply) => reply.end(payload)));
  const connected = all(workers, 'connect');
  workers.forEach((worker) => worker.start());
  await connected;
  say({ address });
}

function ask(client, payload) {
  return new Promise((resolve, reject) => {
    const done = (error, data) => (error ? reject(new Error(error)) : resolve(data));
    client.request('echo', payload, undefined, done, { timeout: TIMEOUT });
  });
}

function quantile(sorted, part) {
  return sorted[Math.floor(sorted.length * part)];
}

async function requests(clients, { seconds, in_flight: inFlight, size }) {
  const payload = 'x'.repeat(size);
  const latencies = [];
  const begun = now();
  const askOn = async (client) => {
    for (let asked = now(); asked < begun + seconds; asked = now()) {
      await ask(client, payload);
      latencies.push(now() - asked);
    }
  };
  await Promise.all(many(inFlight, (_, i) => askOn(clients[i % clients.length])));
  const took = now() - begun;
  latencies.sort((a, b) => a - b);
  return {
    count: latencies.length,
    seconds: took,
    per_second: latencies.length / took,
    p50_us: 1e6 * quantile(latencies, 0.5),
    p99_us: 1e6 * quantile(latencies, 0.99),
  };
}

async function beClient({ address, clients: number }) {
  const clients = many(number, () => new Client(address));
  clients.forEach((client) => client.start());
  for (const client of clients) {
    if ((await ask(client, 'hello')) !== 'hello') {
      throw new Error('an echo is not one');
    }
  }
  say({});
  for await (const line of readline.createInterface({ input: process.stdin })) {
    say(await requests(clients, JSON.parse(line)));
  }
  process.exit(0);
}

process.on('unhandledRejection', (error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});

const roles = { broker: beBroker, worker: beWorker, client: beClient };
if (role !== 'client') {
  process.stdin.on('end', () => process.exit(0)).resume();
}
roles[role](options);
