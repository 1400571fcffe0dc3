// Changes as they happen: a stream of hints, or, when it cannot be had, a look every fifteen seconds.

const POLL = 15_000;
const QUIET = 50_000;
const MANY = 3;

/** Listeners: `mode(text)`, `refresh()` (read everything again), `hint(topic, data)`. */
const listeners = { mode: new Set(), refresh: new Set(), hint: new Set() };
let source;
let retry;
let poll;
let quiet;
let failures = 0;
let wanted = true;
let mode = "connecting";
let counts;

/** Registers a listener; the answer takes it away again. */
export function on(name, listener) {
  listeners[name].add(listener);
  return () => listeners[name].delete(listener);
}

export const current = () => mode;

/** The counts told last: they are told again only when they change. */
export const lastCounts = () => counts;

function emit(name, ...args) {
  for (const listener of [...listeners[name]]) listener(...args);
}

function become(next) {
  mode = next;
  emit("mode", next);
}

function close() {
  source?.close();
  source = undefined;
  for (const timer of [retry, quiet]) clearTimeout(timer);
  clearInterval(poll);
  poll = undefined;
}

function heard() {
  clearTimeout(quiet);
  quiet = setTimeout(failed, QUIET);
}

function open() {
  close();
  source = new EventSource("/api/events?topics=jobs,instances");
  source.addEventListener("reset", () => {
    failures = 0;
    heard();
    clearInterval(poll);
    poll = undefined;
    become("live");
    emit("refresh");
  });
  for (const topic of ["snapshot", "job", "instance"]) {
    source.addEventListener(topic, (event) => {
      heard();
      const data = JSON.parse(event.data);
      if (topic === "snapshot") counts = data;
      emit("hint", topic, data);
    });
  }
  source.addEventListener("ping", heard);
  source.addEventListener("error", failed);
  quiet = setTimeout(failed, QUIET);
}

function failed() {
  close();
  failures += 1;
  retry = setTimeout(open, Math.min(1000 * 2 ** (failures - 1), 30_000));
  if (failures >= MANY) {
    become("polling");
    poll = setInterval(() => emit("refresh"), POLL);
  } else {
    become("connecting");
  }
}

/** Starts, or goes on. */
export function start() {
  wanted = true;
  failures = 0;
  if (document.hidden) return;
  become("connecting");
  open();
}

/** Stops until started again. */
export function pause() {
  wanted = false;
  close();
  become("paused");
}

document.addEventListener("visibilitychange", () => {
  if (!wanted) return;
  if (document.hidden) close();
  else start();
});
