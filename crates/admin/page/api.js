// The public API, read only.

import { learn } from "./format.js";

/** An answer that is not the one asked for. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.details ? `${body.error}: ${body.details}` : (body.error ?? `HTTP ${status}`));
    this.status = status;
    this.requestId = body.request_id;
  }
}

/** Reads `path` with the parameters that have a value. Gives up after 20 seconds, or with `signal`. */
export async function read(path, params = {}, signal = undefined) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== undefined && value !== ""));
  const bounds = [AbortSignal.timeout(20_000), signal].filter(Boolean);
  const answer = await fetch(query.size ? `${path}?${query}` : path, { signal: AbortSignal.any(bounds) });
  learn(answer.headers.get("date"));
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
  return answer.json();
}
