// A PMTiles archive (version 3) of a few tiles that the test makes itself: enough streets to see whether they are shown.

import { deflateSync } from "node:zlib";

const HEADER = 127;
const NONE = 1;
export const KIND = { vector: 1, png: 2 };

/** `tiles` by `[z, x, y, bytes]`. */
export function archive(kind, tiles, [west, south, east, north]) {
  const entries = tiles.map(([z, x, y, data]) => ({ id: tileId(z, x, y), z, data })).sort((a, b) => a.id - b.id);
  let offset = 0;
  for (const entry of entries) [entry.offset, offset] = [offset, offset + entry.data.length];
  const ids = entries.map(({ id }, index) => varint(index === 0 ? id : id - entries[index - 1].id));
  const directory = Buffer.concat([varint(entries.length), ...ids, ...entries.map(() => varint(1)), ...entries.map(({ data }) => varint(data.length)), ...entries.map((entry) => varint(entry.offset + 1))]);
  const metadata = Buffer.from(JSON.stringify({ vector_layers: [] }));
  const header = Buffer.alloc(HEADER);
  header.write("PMTiles");
  header[7] = 3;
  const places = [HEADER, directory.length, HEADER + directory.length, metadata.length, 0, 0, HEADER + directory.length + metadata.length, offset, entries.length, entries.length, entries.length];
  places.forEach((value, index) => header.writeBigUInt64LE(BigInt(value), 8 + 8 * index));
  const zooms = entries.map(({ z }) => z);
  [1, NONE, NONE, kind, Math.min(...zooms), Math.max(...zooms)].forEach((value, index) => { header[96 + index] = value; });
  [west, south, east, north].forEach((degrees, index) => header.writeInt32LE(Math.round(degrees * 1e7), 102 + 4 * index));
  header[118] = zooms[0];
  return Buffer.concat([header, directory, metadata, ...entries.map(({ data }) => data)]);
}

/** Along the Hilbert curve, after all tiles of the zooms before. */
function tileId(z, x, y) {
  let id = (4 ** z - 1) / 3;
  for (let side = 2 ** (z - 1); side >= 1; side /= 2) {
    const [right, low] = [(x & side) > 0 ? 1 : 0, (y & side) > 0 ? 1 : 0];
    id += side * side * ((3 * right) ^ low);
    if (low === 0) {
      if (right === 1) [x, y] = [side - 1 - x, side - 1 - y];
      [x, y] = [y, x];
    }
  }
  return id;
}

export function tileAt(latitude, longitude, z) {
  const radians = (latitude * Math.PI) / 180;
  return [Math.floor(((longitude + 180) / 360) * 2 ** z), Math.floor(((1 - Math.asinh(Math.tan(radians)) / Math.PI) / 2) * 2 ** z)];
}

function varint(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return Buffer.from([...bytes, value]);
}
const field = (number, body) => Buffer.concat([varint(number * 8 + 2), varint(body.length), body]);
const whole = (number, value) => Buffer.concat([varint(number * 8), varint(value)]);
const zigzag = (value) => (value < 0 ? -value * 2 - 1 : value * 2);

/** A vector tile of `{layer, kind, name?, line | ring | point}` in 4096 steps a side. */
export function vectorTile(shapes) {
  const layers = [...new Set(shapes.map(({ layer }) => layer))].map((layer) => {
    const features = shapes.filter((shape) => shape.layer === layer);
    const values = [...new Set(features.flatMap(({ kind, name }) => [kind, name].filter(Boolean)))];
    return field(3, Buffer.concat([
      field(1, Buffer.from(layer)), ...features.map((shape) => field(2, feature(shape, values))), field(3, Buffer.from("kind")), field(3, Buffer.from("name")),
      ...values.map((value) => field(4, field(1, Buffer.from(value)))), whole(5, 4096), whole(15, 2)]));
  });
  return Buffer.concat(layers);
}

function feature({ kind, name, line, ring, point }, values) {
  const tags = [0, values.indexOf(kind), ...(name ? [1, values.indexOf(name)] : [])];
  const points = line ?? ring ?? [point];
  let at = [0, 0];
  const steps = points.map(([x, y]) => {
    const step = [zigzag(x - at[0]), zigzag(y - at[1])];
    at = [x, y];
    return step;
  });
  const [first, ...rest] = steps;
  const commands = [(1 << 3) | 1, ...first, ...(rest.length > 0 ? [(rest.length << 3) | 2, ...rest.flat()] : []), ...(ring ? [15] : [])];
  return Buffer.concat([field(2, Buffer.concat(tags.map(varint))), whole(3, point ? 1 : line ? 2 : 3), field(4, Buffer.concat(commands.map(varint)))]);
}

/** A PNG of one colour. */
export function picture([red, green, blue], side = 256) {
  const chunk = (name, body) => {
    const told = Buffer.concat([Buffer.from(name), body]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(body.length);
    sum.writeUInt32BE(crc32(told));
    return Buffer.concat([length, told, sum]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(side, 0);
  head.writeUInt32BE(side, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const rows = Buffer.concat(Array.from({ length: side }, () => Buffer.from([0, ...Array.from({ length: side }, () => [red, green, blue]).flat()])));
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", head), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

function crc32(bytes) {
  let sum = ~0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

/** A town of two streets, a park, a river, houses and names, in the tile around a place. */
export function town(latitude, longitude, z = 12) {
  const [x, y] = tileAt(latitude, longitude, z);
  const square = (left, top, side) => [[left, top], [left + side, top], [left + side, top + side], [left, top + side]];
  const tile = vectorTile([
    { layer: "earth", kind: "earth", ring: square(0, 0, 4096) }, { layer: "water", kind: "river", ring: [[0, 2600], [4096, 3000], [4096, 3250], [0, 2850]] },
    { layer: "landuse", kind: "park", ring: square(600, 600, 900) }, { layer: "buildings", kind: "building", ring: square(2000, 2000, 60) },
    { layer: "roads", kind: "major_road", name: "Corso Uno", line: [[0, 1900], [4096, 1700]] }, { layer: "roads", kind: "minor_road", name: "Via Due", line: [[1900, 0], [2100, 4096]] },
    ...Array.from({ length: 12 }, (_, n) => ({ layer: "roads", kind: "minor_road", line: [[0, 250 + 330 * n], [4096, 180 + 330 * n]] })),
    { layer: "boundaries", kind: "region", line: [[0, 3900], [4096, 3700]] }, { layer: "places", kind: "locality", name: "Cardea Town", point: [2200, 1500] },
  ]);
  return archive(KIND.vector, [[z, x, y, tile]], [longitude - 0.1, latitude - 0.1, longitude + 0.1, latitude + 0.1]);
}
