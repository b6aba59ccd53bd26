'use strict';

// The module `zmq` that PIGATO and many an older program ask for no longer builds.  zeromq 6 has most of its interface
// in `v5-compat`; the rest is here.

const compat = require('zeromq/v5-compat');

// What the old module had, and programs compare with `socket._zmq.state`.
const STATE_READY = 0;
const STATE_CLOSED = 2;

function toFrame(value) {
  return Buffer.isBuffer(value) ? value : String(value);
}

class Socket extends compat.Socket {
  constructor(type) {
    super(type);
    const socket = this;
    this._answered = Promise.resolve();
    this._zmq = {
      get state() {
        return socket.closed ? STATE_CLOSED : STATE_READY;
      },
    };
  }

  get identity() {
    return this._identity;
  }

  set identity(value) {
    this._identity = value;
    // zeromq 6 knows none of pub and sub sockets.  Their peers have no use for it.
    if ('routingId' in this._socket) {
      super.identity = value;
    }
  }

  // Sends the next message.  To zeromq 6, a request that waits behind another one may hide that one's reply for ever, at
  // any server; so it does not get to know of it before.
  async _send() {
    if (this.type === 'req') {
      await this._answered;
      this._answered = new Promise((resolve) => this.once('message', resolve));
    }
    while (this._binding) {
      await this._binding;
    }
    if (!this.closed) {
      await super._send();
    }
  }

  // Binds; what is sent meanwhile waits, since zeromq 6 would refuse it.
  bind(address, callback) {
    this._binding = new Promise((resolve) => {
      super.bind(address, (error) => {
        this._binding = null;
        resolve();
        if (callback) {
          callback(error);
        } else if (error) {
          this.emit('error', error);
        }
      });
    });
    return this;
  }

  send(message, flags, callback) {
    const frames = Array.isArray(message) ? message : [message];
    return super.send(frames.map(toFrame), flags, callback);
  }
}

function socket(type, options) {
  return Object.assign(new Socket(type), options);
}

module.exports = { ...compat, Socket, socket, createSocket: socket, STATE_READY, STATE_CLOSED };
