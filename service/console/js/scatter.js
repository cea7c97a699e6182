// Points on a canvas: tens of thousands of them, moved, zoomed and animated from one layout to the next.

const MOVE = 700; // ms from layout to layout
const SIZE = 3; // px of a point
const COLOURS = 11;

// Registered as colours, so that their computed values are ones: a canvas takes no light-dark().
for (let n = 0; n < COLOURS; n += 1) CSS.registerProperty({ name: `--colour-${n}`, syntax: "<color>", inherits: true, initialValue: "gray" });

/** "rgb(61, 79, 209)" as a pixel. */
function packed(colour) {
  const [red, green, blue] = colour.match(/[\d.]+/g).map(Number);
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// Pixels are written one by one and drawn at once: twenty thousand calls of a canvas take several times as long.
export class Scatter {
  /** `told`: {hover(point | null, x, y), pick(point)}. */
  constructor(canvas, told) {
    Object.assign(this, { canvas, told, ids: [], x: [], y: [], colour: [], zoom: 1, panX: 0, panY: 0, begin: null, frames: [], pending: false });
    this.context = canvas.getContext("2d");
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(canvas);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.repaint = () => this.paintSoon();
    this.dark.addEventListener("change", this.repaint);
    this.themed = new MutationObserver(this.repaint);
    this.themed.observe(document.documentElement, { attributes: true });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); this.nearer(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.offsetX, event.offsetY); }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => { this.held = [event.clientX, event.clientY]; this.dragged = false; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => this.pointer(event));
    canvas.addEventListener("pointerup", (event) => { const still = this.held && !this.dragged; this.held = null; const point = still ? this.at(event.offsetX, event.offsetY) : null; if (point !== null) told.pick(point); });
    canvas.addEventListener("pointerleave", () => told.hover(null));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  close() {
    this.resized.disconnect();
    this.dark.removeEventListener("change", this.repaint);
    this.themed.disconnect();
    this.closed = true;
  }

  /** Another layout; points whose id was there move to their new place. */
  show(ids, x, y, colour) {
    const before = new Map(this.ids.map((id, place) => [id, place]));
    const old = this.ids.length ? ids.map((id) => before.get(id) ?? -1) : null;
    this.from = old ? [old.map((place, n) => (place < 0 ? x[n] : this.x[place])), old.map((place, n) => (place < 0 ? y[n] : this.y[place]))] : null;
    // One frame for both layouts, so that what moves in it has moved.
    const frame = old ? this.frame : { left: Infinity, right: -Infinity, bottom: Infinity, top: -Infinity };
    for (let n = 0; n < x.length; n += 1) {
      frame.left = Math.min(frame.left, x[n]); frame.right = Math.max(frame.right, x[n]);
      frame.bottom = Math.min(frame.bottom, y[n]); frame.top = Math.max(frame.top, y[n]);
    }
    this.frame = frame;
    Object.assign(this, { ids, x, y, colour });
    // The commonest colours last, so that they lie above the grey of all the others.
    this.order = Array.from(colour.keys()).sort((a, b) => colour[b] - colour[a]);
    this.begin = this.from && !matchMedia("(prefers-reduced-motion: reduce)").matches ? performance.now() : null;
    this.frames = [];
    this.fit();
  }

  fit() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
    Object.assign(this, { width, height, ratio, });
    const { left, right, bottom, top } = this.frame ?? {};
    const known = Number.isFinite(left);
    this.scale = known ? Math.min((width - 32) / Math.max(1e-9, right - left), (height - 32) / Math.max(1e-9, top - bottom)) : 1;
    this.middle = known ? [(left + right) / 2, (bottom + top) / 2] : [0, 0];
    this.paintSoon();
  }

  paintSoon() {
    if (this.pending || this.closed) return;
    this.pending = true;
    requestAnimationFrame((now) => { this.pending = false; this.paint(now); });
  }

  /** The share of the move that is done, eased. */
  done(now) {
    if (this.begin === null) return 1;
    const t = Math.min(1, Math.max(0, (now - this.begin) / MOVE));
    if (t === 1) this.begin = null;
    return t * t * (3 - 2 * t);
  }

  paint(now) {
    const started = performance.now();
    const { context, width, height, ratio } = this;
    const style = getComputedStyle(this.canvas);
    const t = this.done(now);
    const scale = this.scale * this.zoom;
    const [left, top] = [width / 2 + this.panX - this.middle[0] * scale, height / 2 + this.panY + this.middle[1] * scale];
    const [across, down] = [this.canvas.width, this.canvas.height];
    if (!across || !down) return;
    if (this.image?.width !== across || this.image.height !== down) {
      this.image = context.createImageData(across, down);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const { pixels } = this;
    pixels.fill(0);
    const colours = Array.from({ length: COLOURS }, (_, n) => packed(style.getPropertyValue(`--colour-${n}`)));
    const points = this.ids.length;
    const side = Math.max(2, Math.round((points > 5000 ? SIZE - 0.5 : points > 1000 ? SIZE + 1 : SIZE + 3) * ratio));
    for (const n of this.order ?? []) {
      const x = t === 1 ? this.x[n] : this.from[0][n] + (this.x[n] - this.from[0][n]) * t;
      const y = t === 1 ? this.y[n] : this.from[1][n] + (this.y[n] - this.from[1][n]) * t;
      const column = Math.round((left + x * scale) * ratio - side / 2);
      const row = Math.round((top - y * scale) * ratio - side / 2);
      if (column < 0 || row < 0 || column + side > across || row + side > down) continue;
      for (let at = row * across + column, end = at + side * across; at < end; at += across) pixels.fill(colours[this.colour[n]], at, at + side);
    }
    context.putImageData(this.image, 0, 0);
    this.frames.push({ at: now, took: performance.now() - started });
    if (this.frames.length > 600) this.frames.shift();
    this.canvas.dataset.frames = this.frames.length;
    if (t < 1) this.paintSoon();
  }

  at(x, y) {
    const scale = this.scale * this.zoom;
    const [px, py] = [(x - this.width / 2 - this.panX) / scale + this.middle[0], (this.height / 2 + this.panY - y) / scale + this.middle[1]];
    let [best, least] = [null, (8 / scale) ** 2];
    for (let n = 0; n < this.ids.length; n += 1) {
      const far = (this.x[n] - px) ** 2 + (this.y[n] - py) ** 2;
      if (far < least) [best, least] = [n, far];
    }
    return best;
  }

  nearer(factor, x = this.width / 2, y = this.height / 2) {
    const zoom = Math.min(60, Math.max(0.5, this.zoom * factor));
    const ratio = zoom / this.zoom;
    this.panX = (x - this.width / 2) * (1 - ratio) + this.panX * ratio;
    this.panY = (y - this.height / 2) * (1 - ratio) + this.panY * ratio;
    this.zoom = zoom;
    this.paintSoon();
  }

  pointer(event) {
    if (!this.held) return this.told.hover(this.at(event.offsetX, event.offsetY), event.offsetX, event.offsetY);
    const [dx, dy] = [event.clientX - this.held[0], event.clientY - this.held[1]];
    if (Math.abs(dx) + Math.abs(dy) < 4 && !this.dragged) return undefined;
    this.dragged = true;
    this.held = [event.clientX, event.clientY];
    this.panX += dx;
    this.panY += dy;
    return this.paintSoon();
  }

  key(event) {
    const move = (x, y) => () => { this.panX += x; this.panY += y; this.paintSoon(); };
    const does = { "+": () => this.nearer(1.25), "=": () => this.nearer(1.25), "-": () => this.nearer(0.8), 0: () => { Object.assign(this, { zoom: 1, panX: 0, panY: 0 }); this.paintSoon(); }, ArrowLeft: move(40, 0), ArrowRight: move(-40, 0), ArrowUp: move(0, 40), ArrowDown: move(0, -40) }[event.key];
    if (does) { event.preventDefault(); does(); }
  }
}
