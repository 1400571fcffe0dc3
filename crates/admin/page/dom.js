// Building elements. Data only ever becomes text nodes and attributes, never markup: what workflows and repositories
// are called is up to strangers.

import { NONE, ago, coarse, full, now } from "./format.js";

/** An element. `props`: attributes, `on…` listeners, `vars` for CSS custom properties. Falsy children are left out. */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

function svg(tag, props, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function build(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

const ICONS = {
  waiting: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2", { "stroke-dasharray": "2.2 2.5" }],
  starting: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2M8 4.9V8l2.1 1.5", {}],
  running: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2M8 6.4a1.6 1.6 0 1 1 0 3.2 1.6 1.6 0 0 1 0-3.2", {}],
  done: ["M3 8.6l3.2 3.2L13 4.6", {}],
  failed: ["M4 4l8 8M12 4l-8 8", {}],
  cancelled: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2M3.9 12.1l8.2-8.2", {}],
  lost: ["M8 2.2l6.3 11.3H1.7zM8 6.4v3.2M8 11.5v.1", {}],
  off: ["M4 8h8", {}],
  search: ["M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9M10.4 10.4l3.4 3.4", {}],
  sun: ["M8 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6M8 1v1.4M8 13.6V15M1 8h1.4M13.6 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1", {}],
  moon: ["M13.5 9.7A5.8 5.8 0 0 1 6.3 2.5a5.8 5.8 0 1 0 7.2 7.2", {}],
  pause: ["M5.5 3.5v9M10.5 3.5v9", {}],
  play: ["M5 3.2l7.5 4.8L5 12.8z", {}],
  keys: ["M5.9 5.9a2.2 2.2 0 1 1 3 2.1c-.6.3-.9.7-.9 1.4M8 12.1v.1", {}],
  back: ["M10 3L5 8l5 5", {}],
};

/** One of our pictures, for the eye only: the word stands beside it. */
export function icon(name) {
  const [path, props] = ICONS[name] ?? ICONS.off;
  return svg(
    "svg",
    { class: `icon icon-${name}`, viewBox: "0 0 16 16", "aria-hidden": "true", width: 16, height: 16 },
    svg("path", { d: path, ...props }),
  );
}

/** Puts children in the place of what is there. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return element;
}

let announced;

/** Says something in passing. */
export function toast(text) {
  const box = document.getElementById("toasts");
  clearTimeout(announced);
  fill(box, h("p", { class: "toast" }, text));
  announced = setTimeout(() => box.replaceChildren(), 4000);
}

/** Copies text, and says whether that went well. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    toast(`${what} could not be copied: the browser allows that only on secure pages`);
  }
}

const AS = { ago, coarse };

/** A time that keeps counting: since `at`, or until it when it is to come. The absolute time is its tooltip. */
export function ticking(at, as = "ago") {
  if (at === null || at === undefined || Number.isNaN(at)) return NONE;
  const props = { class: "tick", "data-at": at, "data-as": as, datetime: new Date(at).toISOString(), title: full(at) };
  return h("time", props, counted(at, as));
}

const counted = (at, as) => AS[as](Math.abs(now() - at));

/** Moves every such time on. */
export function tick() {
  for (const element of document.querySelectorAll(".tick")) {
    const text = counted(Number(element.dataset.at), element.dataset.as);
    if (element.textContent !== text) element.textContent = text;
  }
}
