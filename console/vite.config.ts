import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";
import { makeWorld } from "./world.ts";

/** A packed copy beside each part that gains by it; the gateway sends it to browsers that take it. */
function packed(): Plugin {
  return {
    name: "packed",
    apply: "build",
    closeBundle() {
      const folder = join(import.meta.dirname, "dist", "assets");
      for (const name of readdirSync(folder)) {
        const plain = readFileSync(join(folder, name));
        if (!/\.(js|mjs|css|json)$/.test(name) || plain.length < 1024) continue;
        writeFileSync(join(folder, `${name}.gz`), gzipSync(plain, { level: 9 }));
      }
    },
  };
}

/** The offline base map, beside the sources that name it. */
function world(): Plugin {
  return { name: "world", buildStart: () => makeWorld(join(import.meta.dirname, "node_modules", "world-atlas"), join(import.meta.dirname, "src", "made")) };
}

export default defineConfig({
  // The gateway serves the page at `/` and its parts below `/console/assets/`.
  base: "/console/",
  plugins: [world(), svelte(), packed()],
  build: {
    target: "es2022",
    // The policy takes no data: addresses and no inline script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1500,
    rolldownOptions: { checks: { pluginTimings: false } },
  },
  worker: { format: "es" },
  server: { proxy: { "/v1": { target: "https://127.0.0.1:8443", secure: false, ws: true } } },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
