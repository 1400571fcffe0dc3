// The keys, and the dialog that lists them.

import { h } from "./dom.js";

const KEYS = [
  ["/", "search"],
  ["↑ ↓", "move through the rows"],
  ["Enter", "open the row"],
  ["g j", "jobs"],
  ["g r", "runners"],
  ["g s", "status"],
  ["p", "pause or go on with live updates"],
  ["?", "these keys"],
  ["Esc", "close, or leave the search"],
];

const dialog = h("dialog", { class: "help", "aria-labelledby": "help-title" },
  h("h2", { id: "help-title" }, "Keys"),
  h("dl", {}, KEYS.map(([keys, what]) => h("div", {}, h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, what)))),
  h("form", { method: "dialog" }, h("button", { class: "quiet" }, "Close")));
document.body.append(dialog);

/** Shows the keys. */
export const help = () => dialog.showModal();

const GOES = { j: "/admin/jobs/", r: "/admin/instances/", i: "/admin/instances/", s: "/admin/status/" };

/** Listens to the keyboard. `view` answers the page in view. */
export function listen(view, go, toggle) {
  let gone = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    const typing = event.target.closest("input, textarea, select");
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    const after = event.timeStamp - gone < 1200;
    gone = 0;
    if (after && GOES[event.key]) go(GOES[event.key]);
    else if (event.key === "g") gone = event.timeStamp;
    else if (event.key === "/" && view()?.search) view().search();
    else if (event.key === "?") help();
    else if (event.key === "p") toggle();
    else if (event.key === "ArrowDown" && !event.target.closest("tr, button, a, summary, [tabindex='0']")) view()?.enter?.();
    else return;
    event.preventDefault();
  });
}
