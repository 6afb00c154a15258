// A zip file of files that are compressed already: stored as they are.

import { crc32 } from "../brush/png.js";

const DOS_EPOCH = 0x0021; // 1 January 1980: a zip is the same whenever it is made
const FAR = 0xffffffff; // stands for a place from 4 GiB on, which is in a record of zip64

/** The zip, a Blob, of `{name, blob}`; equal names are told apart. Reads one file at a time. */
export async function zipOf(files) {
  const parts = [];
  const directory = [];
  const taken = new Set();
  let offset = 0;
  for (const { name, blob } of files) {
    const path = new TextEncoder().encode(unique(name, taken));
    const sum = crc32(new Uint8Array(await blob.arrayBuffer()));
    const common = [20, 0x0800, 0, 0, DOS_EPOCH, sum, blob.size, blob.size, path.length, 0];
    const local = record(0x04034b50, "hhhhhiiihh", common);
    if (offset < FAR) {
      directory.push(record(0x02014b50, "hhhhhhiiihhhhhii", [20, ...common, 0, 0, 0, 0, offset]), path);
    } else {
      const place = record(0x00080001, "l", [offset]);
      const far = [45, 45, ...common.slice(1, -1), place.length, 0, 0, 0, 0, FAR];
      directory.push(record(0x02014b50, "hhhhhhiiihhhhhii", far), path, place);
    }
    parts.push(local, path, blob);
    offset += local.length + path.length + blob.size;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  if (offset >= FAR) {
    directory.push(
      record(0x06064b50, "lhhiillll", [44, 45, 45, 0, 0, files.length, files.length, length, offset]),
      record(0x07064b50, "ili", [0, offset + length, 1]),
    );
  }
  const end = record(0x06054b50, "hhhhiih", [0, 0, files.length, files.length, length, Math.min(offset, FAR), 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

const WIDTHS = { h: 2, i: 4, l: 8 };

/** Little-endian numbers after a signature: `h` has 2 bytes, `i` has 4, `l` has 8. */
function record(signature, format, values) {
  const bytes = new Uint8Array(4 + [...format].reduce((sum, kind) => sum + WIDTHS[kind], 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, signature, true);
  let at = 4;
  [...format].forEach((kind, i) => {
    if (kind === "h") view.setUint16(at, values[i], true);
    else if (kind === "i") view.setUint32(at, values[i], true);
    else view.setBigUint64(at, BigInt(values[i]), true);
    at += WIDTHS[kind];
  });
  return bytes;
}

function unique(name, taken) {
  const [, stem, extension] = /^(.*?)(\.[^.]*)?$/.exec(name);
  let path = name;
  const key = () => path.normalize().toLowerCase(); // folders of Windows and macOS hold names that differ in case once
  for (let n = 2; taken.has(key()); n += 1) path = `${stem} (${n})${extension ?? ""}`;
  taken.add(key());
  return path;
}
