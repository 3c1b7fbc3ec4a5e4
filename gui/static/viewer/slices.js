// Slices as they come from the server: fetched in the order in which they are wanted, kept within a budget.

const AT_ONCE = 4;

export class SliceCache {
  // base: address of the open case; loaded(): a wanted slice has come; failed(text): the server refuses.
  constructor(base, bytes, loaded, failed) {
    Object.assign(this, { base, bytes, loaded, failed });
    this.kept = new Map(); // key -> {data, version}, least recently used first
    this.size = 0;
    this.version = { image: 0, labels: 0, other: 0 };
    this.queue = [];
    this.running = new Map(); // key -> AbortController
  }

  // The slice if it is here, also an outdated one until the new one comes.
  get(layer, plane, level) {
    const key = `${layer}/${plane}/${level}`;
    const found = this.kept.get(key);
    if (!found) return undefined;
    this.kept.delete(key);
    this.kept.set(key, found);
    return found.data;
  }

  // Ask for slices, most urgent first: [layer, plane, level]. What was asked for earlier and is not among them
  // is forgotten.
  want(slices) {
    const keys = slices.map((slice) => slice.join("/"));
    const wanted = new Set(keys);
    for (const [key, controller] of this.running) if (!wanted.has(key)) controller.abort();
    this.queue = keys.filter((key) => !this.running.has(key) && !this.isFresh(key));
    this.pump();
  }

  // Everything of a layer is outdated.
  outdate(layer) {
    this.version[layer] += 1;
  }

  isFresh(key) {
    return this.kept.get(key)?.version === this.version[key.split("/")[0]];
  }

  pump() {
    while (this.running.size < AT_ONCE && this.queue.length) this.fetch(this.queue.shift());
  }

  async fetch(key) {
    const layer = key.split("/")[0];
    const version = this.version[layer];
    const controller = new AbortController();
    this.running.set(key, controller);
    try {
      const answer = await fetch(`${this.base}/${key}?version=${version}`, { signal: controller.signal });
      if (!answer.ok) return this.failed(await answer.text());
      const buffer = await answer.arrayBuffer();
      this.keep(key, layer === "image" ? new Uint16Array(buffer) : new Uint8Array(buffer), version);
      this.loaded();
    } catch (error) {
      if (error.name !== "AbortError") this.failed("The server does not answer.");
    } finally {
      this.running.delete(key);
      this.pump();
    }
  }

  keep(key, data, version) {
    const earlier = this.kept.get(key);
    if (earlier && earlier.version > version) return;
    if (earlier) this.size -= earlier.data.byteLength;
    this.kept.delete(key);
    this.kept.set(key, { data, version });
    this.size += data.byteLength;
    for (const [old, { data: { byteLength } }] of this.kept) {
      if (this.size <= this.bytes) break;
      this.kept.delete(old);
      this.size -= byteLength;
    }
  }
}
