'use strict';

// OMDP workers, one for each service; see omdp-client.js for why they are our own.

const crypto = require('crypto');
const zmq = require('zmq');
const { endpoint, options, say, obey } = require('./lines');
const work = require('./work');

const READY = '1';
const REQUEST = '2';
const FINAL = '3';
const HEARTBEAT = '4';
const DISCONNECT = '5';
const PARTIAL = '6';

const LIVENESS = 3;
const { services, heartbeat = 2500 } = options;

class Worker {
  constructor(service, kind) {
    this.service = service;
    this.kind = kind;
    this.requests = new Map();
    this.identity = Buffer.from('W' + crypto.randomBytes(6).toString('base64url'));
  }

  connect() {
    if (this.socket) {
      clearInterval(this.timer);
      this.socket.close();
      say({ event: 'disconnect', service: this.service });
    }
    this.heard = false;
    this.liveness = LIVENESS;
    this.socket = zmq.socket('dealer');
    this.socket.identity = this.identity;
    this.socket.on('message', (...frames) => this.onMessage(frames.map(String)));
    this.socket.connect(endpoint);
    this.send(READY, this.service);
    this.timer = setInterval(() => this.beat(), heartbeat);
  }

  send(...frames) {
    this.socket.send(['W', ...frames]);
  }

  beat() {
    this.liveness -= 1;
    if (this.liveness <= 0) {
      this.connect();
      return;
    }
    this.send(HEARTBEAT);
    for (const request of this.requests.values()) {
      request.liveness -= 1;
    }
  }

  onMessage([side, command, client, rid, payload]) {
    if (side !== 'W') {
      throw new Error('ERR_MSG_HEADER');
    }
    this.liveness = LIVENESS;
    if (!this.heard) {
      this.heard = true;
      say({ event: 'connect', service: this.service, name: String(this.identity) });
    }
    if (command === REQUEST) {
      this.onRequest(client, rid, JSON.parse(payload));
    } else if (command === HEARTBEAT) {
      if (rid !== undefined && this.requests.has(rid)) {
        this.requests.get(rid).liveness = LIVENESS;
      }
    } else if (command === DISCONNECT) {
      this.connect();
    } else {
      throw new Error('ERR_MSG_TYPE_INVALID');
    }
  }

  onRequest(client, rid, payload) {
    const request = { liveness: LIVENESS };
    this.requests.set(rid, request);
    say({ event: 'request', service: this.service, payload, held: this.requests.size });
    work[this.kind](payload, {
      active: () => this.requests.get(rid) === request && request.liveness > 0,
      write: (data) => this.send(PARTIAL, client, rid, 0, JSON.stringify(data)),
      end: (data) => {
        this.requests.delete(rid);
        this.send(FINAL, client, rid, 0, JSON.stringify(data));
      },
      error: (error) => {
        this.requests.delete(rid);
        this.send(FINAL, client, rid, JSON.stringify(error));
      },
    });
  }
}

for (const [service, kind] of Object.entries(services)) {
  new Worker(service, kind).connect();
}

obey({});
