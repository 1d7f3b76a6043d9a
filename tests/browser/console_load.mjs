// The console under a large fleet: 10 000 cars that report every 10 s, told over a real WebSocket by this script, so that
// what is measured is the page. Everything else is the real gateway.

import assert from "node:assert/strict";

import { CARS, feed } from "./crowd.mjs";
import { Desk } from "./desk.mjs";
import { Front } from "./front.mjs";

const MEASURED_MS = 10_000;
const CALM_MS = 3_000;

const desk = await Desk.open({ patienceMs: 60_000, flags: ["--enable-precise-memory-info"] });
const { claim, context, gateway, page } = desk;
let front;

const shown = () => page.waitForFunction((cars) => document.getElementById("shown")?.textContent.replace(/\D/g, "") === String(cars), CARS);
const frames = (ms) => page.evaluate((duration) => new Promise((done) => {
  let [count, longest, before] = [0, 0, performance.now()];
  const end = before + duration;
  requestAnimationFrame(function step(now) {
    count += 1;
    longest = Math.max(longest, now - before);
    before = now;
    if (now < end) requestAnimationFrame(step);
    else done({ perSecond: (count * 1000) / duration, longestMs: Math.round(longest) });
  });
}), ms);

// The goal is 3 s on a machine that does nothing else and draws in software; the limit leaves room for one that builds and
// tests meanwhile.
claim("10 000 cars come into list and map soon after loading", async () => {
  await page.goto(front.url);
  await desk.logInByKey();
  await page.waitForSelector("#map[data-drawn=true]");
  await page.waitForTimeout(CALM_MS);
  await page.reload({ waitUntil: "commit" });
  const began = await page.evaluate(() => performance.timeOrigin);
  const marks = [];
  const mark = async (name, done) => marks.push(`${name} ${Math.round(await done.then(() => Date.now()) - began)} ms`);
  await Promise.all([
    mark("frame", page.waitForSelector("#console")), mark("first row", page.waitForSelector("#vehicles tr[data-id]")), mark("map made", page.waitForSelector("#map[data-ready=true]")),
    mark("every car in the list", shown()), mark("and on the map", page.waitForSelector("#map[data-drawn=true]"))]);
  const took = Date.now() - began;
  console.log(`       ${marks.join(", ")}`);
  console.log(`       from load to a usable map: ${Math.round(took)} ms`);
  assert.ok(took < 12_000, `${took} ms`);
});

claim("with 1 000 reports a second the page draws more than 30 frames a second", async () => {
  await page.waitForTimeout(CALM_MS);
  const { perSecond, longestMs } = await frames(MEASURED_MS);
  console.log(`       ${perSecond.toFixed(1)} frames/s, the longest ${longestMs} ms`);
  await desk.shot("console-10000.png");
  assert.ok(perSecond > 30, `${perSecond}`);
});

claim("and keeps on while it is searched, filtered and scrolled", async () => {
  await page.click("#chips button:has-text('Moving')");
  await page.fill("#search", "van 1");
  const [{ perSecond }] = await Promise.all([frames(4_000), (async () => {
    for (let turn = 0; turn < 10; turn++) {
      await page.evaluate((top) => { document.getElementById("scroller").scrollTop = top; }, turn * 1_500);
      await page.waitForTimeout(300);
    }
  })()]);
  console.log(`       ${perSecond.toFixed(1)} frames/s while scrolling`);
  assert.ok(perSecond > 25, `${perSecond}`);
});

claim("and holds less than 300 MB", async () => {
  const session = await context.newCDPSession(page);
  await session.send("HeapProfiler.collectGarbage");
  const { metrics } = await session.send("Performance.enable").then(() => session.send("Performance.getMetrics"));
  const heapMb = metrics.find(({ name }) => name === "JSHeapUsedSize").value / 1e6;
  console.log(`       ${heapMb.toFixed(0)} MB of heap`);
  assert.ok(heapMb < 300, `${heapMb}`);
});

await desk.run(async () => {
  await gateway.start();
  front = new Front(gateway, feed);
  await front.start();
});
front.end();
