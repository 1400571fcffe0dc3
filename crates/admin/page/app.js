// Which page is in view, and what surrounds it.

import { read } from "./api.js";
import { fill, h, icon, tick, toast } from "./dom.js";
import { chooseUtc, clock, inUtc, now } from "./format.js";
import { help, listen } from "./help.js";
import { job } from "./job.js";
import { jobs } from "./jobs.js";
import { current, on, pause, start } from "./live.js";
import { runners } from "./runners.js";
import { status } from "./status.js";
import { blank } from "./table.js";

const main = document.getElementById("main");
let view;
let closed = false;

function page(path) {
  if (path === "/admin/" || path === "/admin/jobs/") return ["jobs", jobs];
  if (path === "/admin/jobs/detail/") return ["jobs", job];
  if (path === "/admin/instances/") return ["instances", runners];
  if (path === "/admin/status/") return ["status", status];
  return ["", unknown];
}

function unknown(root) {
  fill(root, blank("search", "There is no such page", location.pathname, h("a", { class: "quiet", href: "/admin/jobs/" }, "To the jobs")));
  return { title: "Not found" };
}

function shut(root) {
  fill(root, blank("cancelled", "The operator API is closed",
    "Without sign-in nobody may read it here. It opens once sign-in is set up for this server; a local fleet (runs-fleet-server local) is open on its own machine."));
  return { title: "Closed" };
}

function show() {
  view?.leave?.();
  const path = location.pathname.replace(/\/*$/, "/");
  const [name, open] = page(path);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view = (closed ? shut : open)(main);
  document.title = `${view.title} · runs-fleet`;
}

/** Leads to another page without loading it anew. */
function go(href) {
  const to = new URL(href, location.href);
  if (to.href !== location.href) history.pushState(null, "", to);
  show();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || link.target || link.origin !== location.origin || !link.pathname.startsWith("/admin/")) return;
  if (link.hash && link.pathname === location.pathname) return;
  event.preventDefault();
  go(link.href);
});
addEventListener("popstate", show);

// The tools: live or not, theme, keys.

const MODES = {
  live: ["Live", "Changes are shown as they happen. Press to pause."],
  connecting: ["Connecting", "The stream of changes is being opened. Press to pause."],
  polling: ["Polling", "The stream of changes is not to be had; everything is read every 15 seconds. Press to pause."],
  paused: ["Paused", "Nothing is updated. Press to go on."],
};

const toggle = () => (current() === "paused" ? start() : pause());
const live = h("button", { type: "button", class: "live", onclick: toggle });

function paint(mode) {
  const [word, title] = MODES[mode];
  live.dataset.mode = mode;
  live.title = `${title}\nLast change of this: ${clock(now())}`;
  fill(live, h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}, word), icon(mode === "paused" ? "play" : "pause"));
  live.setAttribute("aria-label", `${word}. ${title}`);
}

const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

const theme = h("button", { type: "button", class: "tool", onclick: () => {
  const next = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    toast("This browser does not remember the theme");
  }
  themed();
} });

function themed() {
  const next = dark() ? "light" : "dark";
  theme.title = `Switch to the ${next} theme`;
  theme.setAttribute("aria-label", theme.title);
  fill(theme, icon(next === "light" ? "sun" : "moon"));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);

const keys = h("button", { type: "button", class: "tool keys", title: "Keys (?)", "aria-label": "Keys", onclick: help }, "?");
fill(document.getElementById("tools"), live, theme, keys);

// The foot: version and zone.

const zone = h("button", { type: "button", class: "link", title: "Switch between local time and UTC", onclick: () => {
  chooseUtc(!inUtc());
  zoned();
  show();
} });
const zoned = () => (zone.textContent = inUtc() ? "Times in UTC" : "Local times");
zoned();
const about = h("span", {});
fill(document.getElementById("foot"), about, zone);

paint("connecting");
themed();
on("mode", paint);
setInterval(tick, 1000);
listen(() => view, go, toggle);

try {
  closed = (await read("/api/auth/config")).mode === "disabled";
} catch {
  // Then the pages themselves will say what is wrong.
}
show();
if (closed) {
  live.hidden = true;
} else {
  start();
  read("/api/status").then((it) => (about.textContent = `runs-fleet ${it.version} · ${it.mode}`), () => {});
}
