// What this process is, what it leans on, and how full its queues are.

import { read } from "./api.js";
import { fill, h, icon, ticking } from "./dom.js";
import { NONE, ms, size } from "./format.js";
import { on } from "./live.js";
import { blank } from "./table.js";

const EVERY = 5000;

const number = (value) => (value === null || value === undefined ? h("span", { class: "none", title: "not known" }, NONE) : value.toLocaleString("en"));

function facts(rows) {
  return h("dl", { class: "facts" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function queues(rows) {
  const head = ["Queue", "Waiting", "In work", "Dead letters", "Oldest"];
  return h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, head.map((title, n) => h("th", { scope: "col", class: n ? "num" : undefined }, title)))),
    h("tbody", {}, rows.map((row) => h("tr", {},
      h("th", { scope: "row" }, row.name),
      row.error
        ? h("td", { colspan: 4, class: "is-failed" }, row.error)
        : [row.messages_visible, row.messages_in_flight, row.dlq_messages].map((n) => h("td", { class: "num" }, number(n))),
      !row.error && h("td", { class: "num" }, row.oldest_message_age_seconds === undefined ? number(null) : `${row.oldest_message_age_seconds} s`)))));
}

function cache(it) {
  const rate = (of) => (of.hit_rate === null ? number(null) : `${Math.round(of.hit_rate * 100)} %`);
  const cells = (of) => [number(of.entries), of.bytes === null ? number(null) : size(of.bytes), (of.hits + of.misses).toLocaleString("en"), rate(of)];
  const row = (name, of) => h("tr", {}, h("th", { scope: "row" }, name), cells(of).map((cell) => h("td", { class: "num" }, cell)));
  const head = ["Repository", "Entries", "Size", "Lookups", "Hit rate"];
  return h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, head.map((title, n) => h("th", { scope: "col", class: n ? "num" : undefined }, title)))),
    h("tbody", {}, it.repos.map((of) => row(of.repo, of)), row("All", it)));
}

/** Shows the process in `root`. */
export function status(root) {
  let timer;
  const body = h("div", { class: "columns" });
  fill(root, h("h1", {}, "Status"), body);

  async function load() {
    clearTimeout(timer);
    timer = setTimeout(load, EVERY);
    const [about, depths, cached] = await Promise.allSettled([read("/api/status"), read("/api/queues"), read("/api/cache/stats")]);
    if (about.status === "rejected") {
      fill(body, blank("lost", "The status could not be read", about.reason.message));
      return;
    }
    const it = about.value;
    const card = (title, ...children) => h("section", { class: "panel card" }, h("h2", {}, title), ...children);
    fill(body,
      card("Process", facts([
        ["Version", it.version], ["Mode", it.mode], ["Replica", h("code", {}, it.replica)],
        ["Up for", ticking(ms(it.started_at), "coarse")],
        ...Object.entries(it.features).map(([name, is]) => [name, is ? "on" : "off"]),
      ])),
      card("Depends on", h("ul", { class: "checks" }, it.dependencies.map((dependency) => h("li", { class: dependency.ok ? "is-running" : "is-failed" },
        icon(dependency.ok ? "done" : "failed"), h("b", {}, dependency.name), h("span", { class: "sub" }, dependency.ok ? "answers" : dependency.error))))),
      card("Queues", depths.status === "rejected" ? h("p", { class: "is-failed" }, depths.reason.message) : queues(depths.value.queues)),
      cached.status === "fulfilled" && card("Actions cache", cache(cached.value)),
      it.warnings.length > 0 && card("Configuration", h("ul", { class: "checks" }, it.warnings.map((warning) =>
        h("li", { class: "is-waiting" }, icon("lost"), h("b", {}, warning.code), h("code", {}, warning.name))))));
  }

  const off = on("refresh", load);
  load();
  return {
    title: "Status",
    leave: () => {
      off();
      clearTimeout(timer);
    },
  };
}
