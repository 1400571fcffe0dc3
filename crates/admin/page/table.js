// A table whose rows keep their elements while their data moves: focus, selection and scroll position survive updates.

import { h, icon } from "./dom.js";

/** Columns: `{ key, title, cell(row), sort?(row), class? }`. Rows are known by `id(row)` and lead to `href(row)`. */
export class Table {
  constructor({ label, columns, id, href, order, onSort }) {
    Object.assign(this, { columns, id, href, onSort, order });
    this.rows = new Map();
    this.held = 0;
    this.head = h("tr", { role: "row" });
    this.body = h("tbody", { role: "rowgroup" });
    this.element = h(
      "table",
      { class: "grid", role: "table", "aria-label": label },
      h("thead", { role: "rowgroup" }, this.head),
      this.body,
    );
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => this.click(event));
    this.heads();
  }

  heads() {
    const [key, down] = [this.order.key, this.order.down];
    this.head.replaceChildren(
      ...this.columns.map((column) => {
        const sorted = column.key === key;
        const aria = sorted ? (down ? "descending" : "ascending") : undefined;
        const title = column.sort
          ? h("button", { type: "button", onclick: () => this.sortBy(column.key) }, column.title,
              h("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (down ? "↓" : "↑") : ""))
          : column.title;
        return h("th", { role: "columnheader", scope: "col", class: column.class, "aria-sort": aria }, title);
      }),
    );
  }

  sortBy(key) {
    this.order = { key, down: this.order.key === key ? !this.order.down : key === "age" };
    const focused = this.columns.findIndex((column) => column.key === key);
    this.heads();
    this.head.children[focused].querySelector("button").focus();
    this.onSort(this.order);
  }

  sorted(rows) {
    const value = this.columns.find((column) => column.key === this.order.key)?.sort ?? (() => 0);
    const sign = this.order.down ? -1 : 1;
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    // What has no value comes last either way.
    return [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * compare(x, y) || this.id(b) - this.id(a);
    });
  }

  /** Whether somebody is in the middle of the rows: selecting text, or on one of them with the keyboard. */
  busy() {
    const selection = document.getSelection();
    const selecting = selection && !selection.isCollapsed && this.body.contains(selection.anchorNode);
    return selecting || this.body.matches(":focus-within");
  }

  /** Shows these rows. While somebody is in the middle of them, known rows change in place and new ones wait. */
  show(rows, { force = false } = {}) {
    const hold = !force && this.rows.size > 0 && this.busy();
    const wanted = this.sorted(rows);
    this.held = 0;
    const kept = new Set();
    for (const row of wanted) {
      const id = this.id(row);
      kept.add(id);
      const known = this.rows.get(id);
      if (known) this.update(known, row);
      else if (hold) this.held += 1;
      else this.rows.set(id, this.create(row));
    }
    if (hold) return;
    for (const [id, { element }] of this.rows) {
      if (!kept.has(id)) {
        element.remove();
        this.rows.delete(id);
      }
    }
    let next = this.body.firstElementChild;
    for (const row of wanted) {
      const { element } = this.rows.get(this.id(row));
      if (element === next) next = next.nextElementSibling;
      else this.body.insertBefore(element, next);
    }
    if (!this.body.querySelector('[tabindex="0"]')) this.body.firstElementChild?.setAttribute("tabindex", "0");
  }

  create(row) {
    const element = h("tr", { role: "row", tabindex: "-1", "data-href": this.href(row) });
    const entry = { element, text: "" };
    this.update(entry, row);
    return entry;
  }

  update(entry, row) {
    const text = JSON.stringify(row);
    if (entry.text === text) return;
    entry.text = text;
    entry.element.replaceChildren(
      ...this.columns.map((column) => h("td", { role: "cell", class: column.class }, column.cell(row))),
    );
    const href = this.href(row);
    if (href) entry.element.dataset.href = href;
  }

  move(to) {
    if (!to) return;
    for (const row of this.body.querySelectorAll('[tabindex="0"]')) row.setAttribute("tabindex", "-1");
    to.setAttribute("tabindex", "0");
    to.focus();
    to.scrollIntoView({ block: "nearest" });
  }

  /** Puts the keyboard on the first row. */
  enter() {
    this.move(this.body.querySelector('[tabindex="0"]') ?? this.body.firstElementChild);
  }

  key(event) {
    const row = event.target.closest("tr");
    const moves = {
      ArrowDown: () => row.nextElementSibling,
      ArrowUp: () => row.previousElementSibling,
      Home: () => this.body.firstElementChild,
      End: () => this.body.lastElementChild,
    };
    if (moves[event.key]) {
      event.preventDefault();
      this.move(moves[event.key]());
    } else if (event.key === "Enter" && event.target === row) {
      this.open(row);
    }
  }

  click(event) {
    const row = event.target.closest("tr");
    const selecting = !document.getSelection()?.isCollapsed;
    if (row && !selecting && !event.target.closest("a, button")) this.open(row);
  }

  open(row) {
    row.querySelector("a")?.click();
  }
}

/** Why a table is empty. */
export function blank(picture, title, text, ...more) {
  return h("div", { class: "blank" }, icon(picture), h("p", { class: "blank-title" }, title), h("p", {}, text), ...more);
}
