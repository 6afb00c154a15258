// The size that a photograph's header states: known without decoding it.

const TABLES = [0xffc4, 0xffc8, 0xffcc]; // among the markers of a JPEG's frame
const LONGEST = 1 << 20; // of what is before the frame, in bytes

/** The `{width, height}` of a PNG or JPEG file, before it is turned; null for other files. */
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
    // too short, or gone
  }
  return null;
}
