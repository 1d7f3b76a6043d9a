// Line icons, drawn here: 24 units square, stroked in the colour of the text beside them.

const SHAPES = {
  lock: "M6 11h12v9H6z M8.5 11V7.5a3.5 3.5 0 0 1 7 0V11 M12 14.5v2",
  unlock: "M6 11h12v9H6z M8.5 11V7.5a3.5 3.5 0 0 1 6.7-1.4 M12 14.5v2",
  locate: "M12 8.6a3.4 3.4 0 1 0 0 6.8a3.4 3.4 0 1 0 0-6.8 M12 2.5v3 M12 18.5v3 M2.5 12h3 M18.5 12h3",
  yes: "M5 12.5l4.5 4.5L19 7.5",
  no: "M6.5 6.5l11 11 M17.5 6.5l-11 11",
  back: "M14.5 5.5L8 12l6.5 6.5",
  car: "M4 16v-3.5l2-5.5h12l2 5.5V16z M4 12.5h16 M6.5 16v2.5 M17.5 16v2.5",
  clock: "M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 1 0 0-17 M12 7.5V12l3 2",
  wait: "M7 3.5h10 M7 20.5h10 M8 3.5c0 5 8 6 8 8.5s-8 3.5-8 8.5 M16 3.5c0 5-8 6-8 8.5s8 3.5 8 8.5",
  ask: "M9 9a3 3 0 1 1 4.4 2.6c-.9.5-1.4 1-1.4 2.4 M12 17.5v.2 M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 1 0 0-17",
  go: "M9.5 5.5L16 12l-6.5 6.5",
};
const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[name]);
  drawing.append(path);
  return drawing;
}
