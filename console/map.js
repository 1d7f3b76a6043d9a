// A plain map: positions scaled to their bounds on a grid of degrees. No tiles and nothing from elsewhere.

import { find, say } from "./dom.js";
import { age, isMoving, isStale } from "./fleet.js";

const PADDING_PX = 36;
const SMALLEST_SPAN = 0.004;
const NEAR_PX = 14;

export class Chart {
  constructor(list, clock, onPick) {
    Object.assign(this, { list, clock, onPick });
    this.canvas = find("map");
    this.tip = find("map-tip");
    this.view = null;
    this.selected = null;
    this.isFitted = true;
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    for (const query of ["(prefers-color-scheme: dark)"]) matchMedia(query).addEventListener("change", () => this.draw());
    this.listen();
  }

  listen() {
    find("map-fit").addEventListener("click", () => this.fit());
    find("map-in").addEventListener("click", () => this.zoom(0.6));
    find("map-out").addEventListener("click", () => this.zoom(1 / 0.6));
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 0.8 : 1.25, event.offsetX, event.offsetY);
    }, { passive: false });
    let held = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.offsetX, y: event.offsetY, moved: false };
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!held) return this.hover(event.offsetX, event.offsetY);
      if (Math.hypot(event.offsetX - held.x, event.offsetY - held.y) < 4 && !held.moved) return;
      this.move(event.offsetX - held.x, event.offsetY - held.y);
      held = { x: event.offsetX, y: event.offsetY, moved: true };
    });
    this.canvas.addEventListener("pointerup", (event) => {
      const found = held && !held.moved && this.nearest(event.offsetX, event.offsetY);
      held = null;
      if (found) this.onPick(found.id);
    });
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
      if (step) this.move(...step);
      else if (event.key === "+") this.zoom(0.6);
      else if (event.key === "-") this.zoom(1 / 0.6);
      else return;
      event.preventDefault();
    });
  }

  located() {
    return this.list.rows.filter((vehicle) => vehicle.latitude !== null);
  }

  fit() {
    this.isFitted = true;
    this.draw();
  }

  /** The bounds of what the table shows, with room for growth so that a driving car does not shake the map. */
  bounds(vehicles) {
    if (vehicles.length === 0) return null;
    const box = { south: 90, north: -90, west: 180, east: -180 };
    for (const { latitude, longitude } of vehicles) {
      box.south = Math.min(box.south, latitude);
      box.north = Math.max(box.north, latitude);
      box.west = Math.min(box.west, longitude);
      box.east = Math.max(box.east, longitude);
    }
    return box;
  }

  follow(vehicles) {
    const box = this.bounds(vehicles);
    if (!box) return;
    const { width, height } = this.size();
    const latitude = (box.south + box.north) / 2;
    const squeeze = Math.max(0.05, Math.cos((latitude * Math.PI) / 180));
    const spanX = Math.max(SMALLEST_SPAN, (box.east - box.west) * squeeze);
    const spanY = Math.max(SMALLEST_SPAN, box.north - box.south);
    const scale = Math.min((width - 2 * PADDING_PX) / spanX, (height - 2 * PADDING_PX) / spanY);
    const before = this.view;
    const fits = before && before.scale <= scale * 1.02 && before.scale > scale * 0.75 &&
      [[box.south, box.west], [box.north, box.east]].every(([lat, lon]) => this.isInside(lat, lon, width, height));
    if (!fits) this.view = { latitude, longitude: (box.west + box.east) / 2, squeeze, scale };
  }

  isInside(latitude, longitude, width, height) {
    const [x, y] = this.project(latitude, longitude, width, height);
    return x >= 12 && y >= 12 && x <= width - 12 && y <= height - 12;
  }

  project(latitude, longitude, width, height) {
    const { view } = this;
    return [
      width / 2 + (longitude - view.longitude) * view.squeeze * view.scale,
      height / 2 - (latitude - view.latitude) * view.scale,
    ];
  }

  zoom(factor, x, y) {
    if (!this.view) return;
    const { width, height } = this.size();
    const [fromX, fromY] = [(x ?? width / 2) - width / 2, (y ?? height / 2) - height / 2];
    const { view } = this;
    const scale = Math.min(3e6, Math.max(2, view.scale / factor));
    view.longitude += fromX / (view.squeeze * view.scale) - fromX / (view.squeeze * scale);
    view.latitude -= fromY / view.scale - fromY / scale;
    view.scale = scale;
    this.isFitted = false;
    this.draw();
  }

  move(x, y) {
    if (!this.view) return;
    this.view.longitude -= x / (this.view.squeeze * this.view.scale);
    this.view.latitude += y / this.view.scale;
    this.isFitted = false;
    this.draw();
  }

  size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  nearest(x, y) {
    if (!this.view) return null;
    const { width, height } = this.size();
    let [best, bestDistance] = [null, NEAR_PX];
    for (const vehicle of this.located()) {
      const [vx, vy] = this.project(vehicle.latitude, vehicle.longitude, width, height);
      const distance = Math.hypot(vx - x, vy - y);
      if (distance < bestDistance) [best, bestDistance] = [vehicle, distance];
    }
    return best;
  }

  hover(x, y) {
    const found = this.nearest(x, y);
    this.tip.hidden = !found;
    this.canvas.style.cursor = found ? "pointer" : "crosshair";
    if (!found) return;
    const speed = found.speed === null ? "" : ` · ${Math.round(found.speed)} km/h`;
    say(this.tip, `${found.id}${speed} · ${found.newest === null ? "never seen" : `${age(this.clock() - found.newest)} ago`}`);
    const { width } = this.size();
    this.tip.style.top = `${y + 14}px`;
    this.tip.style.left = `${Math.min(x + 14, width - this.tip.offsetWidth - 4)}px`;
  }

  select(id) {
    this.selected = id;
    this.draw();
  }

  draw() {
    const { width, height } = this.size();
    if (width === 0 || height === 0) return;
    const ratio = window.devicePixelRatio || 1;
    const [deviceWidth, deviceHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== deviceWidth || this.canvas.height !== deviceHeight) {
      this.canvas.width = deviceWidth;
      this.canvas.height = deviceHeight;
    }
    const vehicles = this.located();
    if (this.isFitted || !this.view) this.follow(vehicles);
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colour("raised");
    pen.fillRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    if (!this.view) {
      pen.fillStyle = colour("muted");
      pen.fillText("No vehicle has told its position yet.", 14, 24);
      return;
    }
    this.drawGrid(pen, width, height, colour);
    for (const vehicle of vehicles) this.drawVehicle(pen, vehicle, width, height, colour);
    const selected = vehicles.find((vehicle) => vehicle.id === this.selected);
    if (selected) this.drawSelected(pen, selected, width, height, colour);
    this.drawScale(pen, height, colour);
  }

  drawGrid(pen, width, height, colour) {
    const { view } = this;
    const step = niceStep(110 / view.scale);
    const digits = Math.max(0, Math.ceil(-Math.log10(step)));
    pen.strokeStyle = colour("line");
    pen.fillStyle = colour("muted");
    pen.lineWidth = 1;
    const across = width / (2 * view.squeeze * view.scale);
    for (let lon = Math.ceil((view.longitude - across) / step) * step; lon <= view.longitude + across; lon += step) {
      const [x] = this.project(view.latitude, lon, width, height);
      line(pen, Math.round(x) + 0.5, 0, Math.round(x) + 0.5, height);
      pen.fillText(`${lon.toFixed(digits)}°`, x + 4, height - 6);
    }
    const up = height / (2 * view.scale);
    for (let lat = Math.ceil((view.latitude - up) / step) * step; lat <= view.latitude + up; lat += step) {
      const [, y] = this.project(lat, view.longitude, width, height);
      line(pen, 0, Math.round(y) + 0.5, width, Math.round(y) + 0.5);
      // The scale stands at the bottom.
      if (y < height - 44) pen.fillText(`${lat.toFixed(digits)}°`, 6, y - 4);
    }
  }

  /** Moving: a full disc with a ring; standing: a disc; stale or offline: a hollow ring; immobilised: a square. */
  drawVehicle(pen, vehicle, width, height, colour) {
    const [x, y] = this.project(vehicle.latitude, vehicle.longitude, width, height);
    if (x < -10 || y < -10 || x > width + 10 || y > height + 10) return;
    const now = this.clock();
    const tint = vehicle.drive === false ? colour("bad") : vehicle.usage === "rented" ? colour("accent") : colour("info");
    pen.beginPath();
    if (vehicle.drive === false) pen.rect(x - 4.5, y - 4.5, 9, 9);
    else pen.arc(x, y, 4.5, 0, 2 * Math.PI);
    if (isStale(vehicle, now) || !vehicle.online) {
      pen.strokeStyle = colour("off");
      pen.lineWidth = 1.5;
      pen.stroke();
      return;
    }
    pen.fillStyle = tint;
    pen.fill();
    if (isMoving(vehicle, now)) {
      pen.beginPath();
      pen.arc(x, y, 7.5, 0, 2 * Math.PI);
      pen.strokeStyle = tint;
      pen.lineWidth = 1.2;
      pen.stroke();
    }
  }

  drawSelected(pen, vehicle, width, height, colour) {
    const [x, y] = this.project(vehicle.latitude, vehicle.longitude, width, height);
    pen.beginPath();
    pen.arc(x, y, 11, 0, 2 * Math.PI);
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 2;
    pen.stroke();
    pen.font = "600 12px system-ui, sans-serif";
    const text = vehicle.id;
    const room = pen.measureText(text).width;
    const left = x + 16 + room > width ? x - 16 - room : x + 16;
    pen.fillStyle = colour("surface");
    pen.fillRect(left - 3, y - 9, room + 6, 18);
    pen.fillStyle = colour("ink");
    pen.fillText(text, left, y + 4);
  }

  drawScale(pen, height, colour) {
    const metresPerPixel = 111_195 / this.view.scale;
    const metres = niceStep(90 * metresPerPixel);
    const length = metres / metresPerPixel;
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 1.5;
    line(pen, 12, height - 24, 12 + length, height - 24);
    pen.fillStyle = colour("ink");
    pen.font = "11px system-ui, sans-serif";
    pen.fillText(metres >= 1000 ? `${metres / 1000} km` : `${metres} m`, 12, height - 30);
  }
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  const lead = rough / power;
  return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}
