// The size in a photograph's header, without decoding it.

const TABLES = [0xffc4, 0xffc8, 0xffcc]; // not among the markers of a JPEG's frame
const LONGEST = 1 << 20; // bytes before the frame

/** The `{width, height}` of a PNG or JPEG file, before its orientation is applied; null for other files. */
export async function headerSize(file) {
  const at = async (start) => new DataView(await file.slice(start, start + 24).arrayBuffer());
  try {
    const head = await at(0);
    if (head.getUint32(0) === 0x89504e47) return { width: head.getUint32(16), height: head.getUint32(20) };
    if (head.getUint16(0) !== 0xffd8) return null;
    for (let start = 2; start < LONGEST; ) {
      const segment = await at(start);
      const marker = segment.getUint16(0);
      if (marker >= 0xffc0 && marker < 0xffd0 && !TABLES.includes(marker)) {
        return { width: segment.getUint16(7), height: segment.getUint16(5) };
      }
      start += 2 + segment.getUint16(2);
    }
  } catch {
    // too short, or removed
  }
  return null;
}
