'use strict';

// An OMDP client.  zmq-omdp is in no registry; this sends and expects what it does, frame by frame, and is as touchy:
// what is no reply ends the process.

const crypto = require('crypto');
const zmq = require('zmq');
const { endpoint, options, say, obey } = require('./lines');

const HEARTBEAT = '4';
const REQUEST = '2';
const FINAL = '3';
const PARTIAL = '6';

const { heartbeat = 2500, timeout = 60000 } = options;
const requests = new Map();

const socket = zmq.socket('dealer');
socket.identity = Buffer.from('C' + crypto.randomBytes(6).toString('base64url'));
socket.on('message', (...frames) => onMessage(frames.map(String)));
socket.connect(endpoint);

function onMessage([side, command, rid, code, data]) {
  if (side !== 'C') {
    throw new Error('ERR_MSG_HEADER');
  }
  const request = requests.get(rid);
  if (request === undefined) {
    return;
  }
  if (command !== FINAL && command !== PARTIAL) {
    throw new Error('ERR_MSG_TYPE');
  }
  request.heard = Date.now();
  const error = code === '0' ? 0 : JSON.parse(code);
  const event = command === FINAL ? 'final' : 'partial';
  if (command === FINAL) {
    requests.delete(rid);
  }
  say({ id: request.id, event, error, data: data === undefined ? null : JSON.parse(data) });
}

setInterval(() => {
  socket.send(['C', HEARTBEAT]);
  for (const [rid, request] of requests) {
    if (request.timeout > -1 && Date.now() > request.heard + request.timeout) {
      requests.delete(rid);
      say({ id: request.id, event: 'final', error: 'C_TIMEOUT', data: null });
    }
  }
}, heartbeat);

obey({
  request({ id, service, payload, beat, opts = {} }) {
    const rid = crypto.randomBytes(6).toString('base64url');
    const all = { timeout, ...opts };
    requests.set(rid, { id, timeout: all.timeout, heard: Date.now() });
    socket.send(['C', REQUEST, service, rid, JSON.stringify(payload), JSON.stringify(all)]);
    if (beat) {
      setInterval(() => requests.has(rid) && socket.send(['C', HEARTBEAT, rid]), beat);
    }
  },
});
