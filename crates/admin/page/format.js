// Times and lengths for people. What is not known is a dash, never a zero.

export const NONE = "–";

let skew = 0;
let utc = false;

/** The server's time, epoch milliseconds. */
export const now = () => Date.now() + skew;

/** Learns the server's time from an answer's `Date`, whose resolution is a second. */
export function learn(date) {
  const at = Date.parse(date ?? "");
  if (Number.isNaN(at)) return;
  const off = at + 500 - Date.now();
  skew = Math.abs(off) > 2000 ? off : 0;
}

/** Whether absolute times are in UTC. */
export const inUtc = () => utc;

/** Chooses the zone of absolute times. */
export function chooseUtc(on) {
  utc = on;
}

export const ms = (time) => (time === undefined || time === null ? null : Date.parse(time));

const pad = (number, width = 2) => String(number).padStart(width, "0");

/** Bytes, to three digits. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** step;
  return `${step && value < 100 ? value.toPrecision(3) : Math.round(value)} ${units[step]}`;
}

/** A length, two units at most: `430 ms`, `4.2 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`. */
export function length(millis) {
  if (millis === null || millis === undefined || Number.isNaN(millis)) return NONE;
  if (millis < 1000) return `${Math.max(0, Math.round(millis))} ms`;
  if (millis < 10_000) return `${(Math.floor(millis / 100) / 10).toFixed(1)} s`;
  return coarse(millis);
}

/** The same in whole seconds, for numbers that tick. */
export function coarse(millis) {
  const s = Math.max(0, Math.floor(millis / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${pad(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${pad(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** How long ago, in one unit. */
export function ago(millis) {
  const s = Math.max(0, Math.floor(millis / 1000));
  if (s < 5) return "now";
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

/** A clock time with milliseconds if wanted. */
export function clock(at, millis = false) {
  const d = new Date(at);
  const [hours, minutes, seconds] = utc
    ? [d.getUTCHours(), d.getUTCMinutes(), d.getUTCSeconds()]
    : [d.getHours(), d.getMinutes(), d.getSeconds()];
  const text = `${pad(hours)}:${pad(minutes)}:${pad(seconds)}`;
  return millis ? `${text}.${pad(((at % 1000) + 1000) % 1000, 3)}` : text;
}

/** A clock time, with its day unless that is today. */
export function brief(at) {
  const [day, today] = [full(at).slice(0, 10), full(now()).slice(0, 10)];
  return day === today ? clock(at) : `${day} ${clock(at)}`;
}

/** Date, time and zone. */
export function full(at) {
  const d = new Date(at);
  if (utc) return `${d.toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const zone = -d.getTimezoneOffset();
  const sign = zone < 0 ? "−" : "+";
  const offset = `${sign}${pad(Math.floor(Math.abs(zone) / 60))}:${pad(Math.abs(zone) % 60)}`;
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${clock(at)} (UTC${offset})`;
}
