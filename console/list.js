// The table of vehicles: searched, filtered, sorted, and drawn only where it can be seen, so that 10 000 are as quick as 10.

import { find, make, put, say } from "./dom.js";
import { STALE_MS, age, doors, isMoving, isStale, placeText, sentence } from "./fleet.js";

const ROW_PX = 30;
const MARGIN_ROWS = 8;

const COLUMNS = [
  { key: "id", title: "Vehicle", of: (v) => v.id },
  { key: "link", title: "Link", of: (v) => (v.online ? 0 : 1) },
  { key: "age", title: "Data age", of: (v) => (v.newest === null ? null : -v.newest), number: true },
  { key: "usage", title: "Usage", of: (v) => v.usage + v.renter },
  { key: "pending", title: "Pending", of: (v) => -v.pending, number: true },
  { key: "doors", title: "Doors", of: (v) => v.locked },
  { key: "drive", title: "Drive", of: (v) => v.drive },
  { key: "speed", title: "Speed", of: (v) => v.speed, number: true },
  { key: "fuel", title: "Fuel", of: (v) => v.fuel, number: true },
  { key: "place", title: "Position", of: (v) => v.latitude },
];

const CHIPS = [
  { name: "Online", is: (v) => v.online },
  { name: "Offline", is: (v) => !v.online },
  { name: "Moving", is: isMoving },
  { name: "Rented", is: (v) => v.usage === "rented" },
  { name: "Pending", is: (v) => v.pending > 0 },
  { name: "Drive disabled", is: (v) => v.drive === false },
  { name: "Stale", is: isStale },
];

export class List {
  constructor(fleet, clock, onPick) {
    Object.assign(this, { fleet, clock, onPick });
    this.sort = { key: "id", up: true };
    this.chosen = new Set();
    this.selected = null;
    this.rows = [];
    this.body = document.querySelector("#vehicles tbody");
    this.scroller = find("scroller");
    this.drawHead();
    this.drawChips();
    find("search").addEventListener("input", () => this.refresh());
    this.scroller.addEventListener("scroll", () => this.drawRows(), { passive: true });
    new ResizeObserver(() => this.drawRows()).observe(this.scroller);
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.body.addEventListener("keydown", (event) => this.pressed(event));
  }

  drawHead() {
    const cells = COLUMNS.map((column) => make("th", {
      scope: "col",
      class: column.number && "number",
      "aria-sort": this.sort.key === column.key && (this.sort.up ? "ascending" : "descending"),
    }, make("button", { type: "button", onclick: () => this.sortBy(column.key) }, column.title)));
    put(document.querySelector("#vehicles thead"), make("tr", {}, ...cells));
  }

  drawChips() {
    put(find("chips"), ...CHIPS.map((chip) => make("button", {
      type: "button",
      "aria-pressed": "false",
      onclick: (event) => {
        const on = !this.chosen.delete(chip);
        if (on) this.chosen.add(chip);
        event.currentTarget.setAttribute("aria-pressed", String(on));
        this.refresh();
      },
    }, chip.name)));
  }

  sortBy(key) {
    this.sort = { key, up: this.sort.key === key ? !this.sort.up : true };
    this.drawHead();
    const index = COLUMNS.findIndex((column) => column.key === key);
    document.querySelectorAll("#vehicles th button")[index].focus();
    this.refresh();
  }

  /** Filters and sorts anew. */
  refresh() {
    const now = this.clock();
    const asked = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const column = COLUMNS.find((column) => column.key === this.sort.key);
    const turn = this.sort.up ? 1 : -1;
    this.rows = [...this.fleet.vehicles.values()]
      .filter((v) => asked.every((word) => v.words.includes(word)) && [...this.chosen].every((chip) => chip.is(v, now)))
      .sort((a, b) => turn * compare(column.of(a), column.of(b)) || compare(a.id, b.id));
    const all = this.fleet.vehicles.size;
    say(find("shown"), this.rows.length === all ? `${all} vehicles` : `${this.rows.length} of ${all}`);
    const nothing = find("nothing");
    nothing.hidden = this.rows.length > 0;
    say(nothing, all === 0 ? "No vehicle is registered yet." : "No vehicle fits the search.");
    document.getElementById("vehicles").setAttribute("aria-rowcount", String(this.rows.length + 1));
    this.drawRows();
  }

  /** Draws the rows in sight; the rest is two empty rows of the right height. */
  drawRows() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW_PX) - MARGIN_ROWS);
    const count = Math.ceil(this.scroller.clientHeight / ROW_PX) + 2 * MARGIN_ROWS;
    const last = Math.min(this.rows.length, first + count);
    const focused = document.activeElement?.closest?.("#vehicles tbody tr")?.dataset.id;
    const now = this.clock();
    const drawn = this.rows.slice(first, last).map((vehicle, index) => this.row(vehicle, first + index, now));
    put(this.body, space(first), ...drawn, space(this.rows.length - last));
    if (focused) this.rowOf(focused)?.focus({ preventScroll: true });
  }

  row(v, index, now) {
    const fresh = performance.now() - v.heard < 1_000 && v.heard !== v.lit;
    if (fresh) v.lit = v.heard;
    const isTabStop = v.id === this.selected || (index === 0 && !this.rows.some((row) => row.id === this.selected));
    const row = make("tr", {
      class: fresh && "fresh",
      "aria-selected": String(v.id === this.selected),
      "aria-rowindex": index + 2,
      tabindex: isTabStop ? "0" : "-1",
    },
    make("td", {}, make("b", {}, v.id), v.name && make("span", { class: "name" }, v.name)),
    make("td", {}, state(v.online ? "good" : "off", v.online ? "Online" : "Offline")),
    make("td", { class: "number" }, v.newest === null ? "never" : age(now - v.newest)),
    make("td", {}, ...[usageText(v)].flat()),
    make("td", { class: "number" }, pendingText(v)),
    make("td", { class: observed(v, "locked", now) }, doors(v)),
    make("td", {}, v.drive === false ? state("bad", "Disabled") : v.drive ? "Enabled" : "–"),
    make("td", { class: `number ${observed(v, "speed", now)}` }, v.speed === null ? "–" : `${Math.round(v.speed)} km/h`),
    make("td", { class: `number ${observed(v, "fuel", now)}` }, ...fuelCell(v.fuel)),
    make("td", { class: `mono ${observed(v, "latitude", now)}` }, placeText(v)));
    row.dataset.id = v.id;
    return row;
  }

  rowOf(id) {
    return [...this.body.children].find((row) => row.dataset.id === id);
  }

  clicked(event) {
    const id = event.target.closest("tr")?.dataset.id;
    if (id) this.onPick(id);
  }

  pressed(event) {
    const id = event.target.closest("tr")?.dataset.id;
    if (!id) return;
    const at = this.rows.findIndex((row) => row.id === id);
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW_PX) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.rows.length, End: this.rows.length };
    if (event.key === "Enter" || event.key === " ") this.onPick(id, true);
    else if (event.key in step) this.goTo(Math.min(this.rows.length - 1, Math.max(0, at + step[event.key])));
    else return;
    event.preventDefault();
  }

  goTo(index) {
    const top = index * ROW_PX;
    const head = 30;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + 2 * ROW_PX + head > this.scroller.scrollTop + this.scroller.clientHeight) {
      this.scroller.scrollTop = top + 2 * ROW_PX + head - this.scroller.clientHeight;
    }
    this.drawRows();
    this.rowOf(this.rows[index].id)?.focus({ preventScroll: true });
  }

  select(id) {
    this.selected = id;
    this.drawRows();
  }
}

// Made once: a comparison that makes its own collator is a hundred times slower.
const collator = new Intl.Collator(undefined, { numeric: true });

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return typeof a === "string" ? collator.compare(a, b) : a < b ? -1 : 1;
}

function space(rows) {
  const cell = make("td", { colspan: COLUMNS.length });
  cell.style.height = `${rows * ROW_PX}px`;
  return make("tr", { class: "space", "aria-hidden": "true" }, cell);
}

/** A cell is stale by the age of its own signal, whatever else the car told since. */
function observed(v, name, now) {
  return v.at[name] !== null && now - v.at[name] > STALE_MS ? "observed stale" : "observed";
}

function state(kind, text) {
  return make("span", { class: `state ${kind}` }, text);
}

function usageText(v) {
  if (v.usage === "free") return make("span", { class: "muted" }, "Free");
  return [sentence(v.usage), v.renter && make("span", { class: "name" }, v.renter)];
}

function fuelCell(fuel) {
  if (fuel === null) return ["–"];
  return [make("meter", { min: 0, max: 100, low: 15, optimum: 100, value: fuel, "aria-hidden": "true" }), `${Math.round(fuel)} %`];
}

function pendingText(v) {
  return make("span", { class: v.pending === 0 ? "muted" : "info" }, String(v.pending));
}
