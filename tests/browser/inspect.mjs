// What a view is held to on a phone: no serious finding of axe-core, nothing too small to touch, nothing over the edge.

import { readFileSync } from "node:fs";

const SMALLEST_PX = 44;

/** The flaws of what is shown, each as a sentence; `axe` is the path of axe-core's script. */
export async function inspect(page, axe) {
  return [
    ...await graveFlaws(page, axe),
    ...await page.evaluate(tooSmall, SMALLEST_PX),
    ...await page.evaluate(overTheEdge),
  ];
}

function tooSmall(least) {
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true });
  // A choice is touched anywhere on its label.
  const target = (element) => (element.matches("input[type=radio]") ? element.closest("label") : element);
  return [...document.querySelectorAll("button, a, select, input, summary")].filter(isShown)
    .map((element) => [element, target(element).getBoundingClientRect()])
    .filter(([, box]) => box.width < least || box.height < least)
    .map(([element, box]) => `${Math.round(box.width)}x${Math.round(box.height)} px to touch: ${element.outerHTML.slice(0, 120)}`);
}

function overTheEdge() {
  const { scrollWidth, clientWidth } = document.documentElement;
  return scrollWidth > clientWidth ? [`${scrollWidth} px wide on a screen of ${clientWidth}`] : [];
}

/** What axe-core finds serious or critical, each as a sentence. */
export async function graveFlaws(page, axe) {
  // Given to the page from outside: its own policy would rightly refuse a foreign script.
  await page.evaluate(readFileSync(axe, "utf8"));
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const grave = found.violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  return grave.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} (${failureSummary})`));
}
