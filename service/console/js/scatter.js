// Points on a canvas: tens of thousands of them, moved, zoomed and animated from one layout to the next.

const MOVE = 700; // ms from layout to layout
const SIZE = 3; // px of a point
const NAMES = [...Array.from({ length: 11 }, (_, n) => `--colour-${n}`), ...Array.from({ length: 10 }, (_, n) => `--scale-${n}`)];

// Registered as colours, so that their computed values are ones: a canvas takes no light-dark().
for (const name of NAMES) CSS.registerProperty({ name, syntax: "<color>", inherits: true, initialValue: "gray" });

/** "rgb(61, 79, 209)" as a pixel. */
function packed(colour) {
  const [red, green, blue] = colour.match(/[\d.]+/g).map(Number);
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** The numbers 0 to n - 1 with the largest values first: what is drawn last lies above. */
function downwards(values) {
  const starts = new Uint32Array(257);
  for (const value of values) starts[255 - value + 1] += 1;
  for (let n = 0; n < 256; n += 1) starts[n + 1] += starts[n];
  const order = new Uint32Array(values.length);
  for (let n = 0; n < values.length; n += 1) order[starts[255 - values[n]]++] = n;
  return order;
}

const NONE = new Float32Array(0);

// Pixels are written one by one and drawn at once: twenty thousand calls of a canvas take several times as long.
export class Scatter {
  /** `told`: {hover(point | null, x, y), pick(point)}. */
  constructor(canvas, told) {
    Object.assign(this, { canvas, told, ids: [], x: NONE, y: NONE, from: null, order: new Uint32Array(0), zoom: 1, panX: 0, panY: 0, moving: false, shown: 1, begin: null, pending: false });
    this.context = canvas.getContext("2d");
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(canvas);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.repaint = () => { this.colours = null; this.paintSoon(); };
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

  /** Another layout; points whose id was there move to their new place. `colour`: a number into NAMES for each. */
  show(ids, x, y, colour) {
    const places = this.ids.length ? this.places(ids) : null;
    const [nextX, nextY] = [Float32Array.from(x), Float32Array.from(y)];
    if (places) {
      const [fromX, fromY] = [nextX.slice(), nextY.slice()];
      const t = this.moving ? this.shown : 1; // a move that another one overtakes goes on from where it is
      const old = t < 1 ? this.from : this;
      for (let n = 0; n < places.length; n += 1) {
        const place = places[n];
        if (place >= 0) [fromX[n], fromY[n]] = [old.x[place] + (this.x[place] - old.x[place]) * t, old.y[place] + (this.y[place] - old.y[place]) * t];
      }
      this.from = { x: fromX, y: fromY };
    }
    // One frame for both layouts, so that what moves in it has moved.
    const frame = places ? this.frame : { left: Infinity, right: -Infinity, bottom: Infinity, top: -Infinity };
    for (let n = 0; n < nextX.length; n += 1) {
      frame.left = Math.min(frame.left, nextX[n]); frame.right = Math.max(frame.right, nextX[n]);
      frame.bottom = Math.min(frame.bottom, nextY[n]); frame.top = Math.max(frame.top, nextY[n]);
    }
    Object.assign(this, { frame, ids, x: nextX, y: nextY, colour, shown: 0, begin: null });
    this.moving = places !== null && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (this.moving) this.canvas.dataset.moving = "";
    this.order = downwards(colour); // so that what has a colour of its own lies above the grey of the others
    this.fit();
  }

  /** Where each of these ids lay before; -1: nowhere. */
  places(ids) {
    if (ids.length === this.ids.length && ids.every((id, n) => id === this.ids[n])) return Int32Array.from(ids.keys());
    const before = new Map(this.ids.map((id, place) => [id, place]));
    return Int32Array.from(ids, (id) => before.get(id) ?? -1);
  }

  fit() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
    Object.assign(this, { width, height, ratio });
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

  /** The share of the move that is done, eased; it begins with its first frame. */
  done(now) {
    if (!this.moving) return 1;
    this.begin ??= now;
    const t = Math.min(1, (now - this.begin) / MOVE);
    this.moving = t < 1;
    this.shown = t * t * (3 - 2 * t);
    return this.shown;
  }

  paint(now) {
    const { context, width, height, ratio, x, y, colour, order } = this;
    const t = this.done(now);
    const scale = this.scale * this.zoom;
    const [left, top] = [width / 2 + this.panX - this.middle[0] * scale, height / 2 + this.panY + this.middle[1] * scale];
    const [across, down] = [this.canvas.width, this.canvas.height];
    if (!across || !down) return;
    if (this.image?.width !== across || this.image.height !== down) {
      this.image = context.createImageData(across, down);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    if (!this.colours) {
      const style = getComputedStyle(this.canvas);
      this.colours = Uint32Array.from(NAMES, (name) => packed(style.getPropertyValue(name)));
    }
    const { pixels, colours } = this;
    pixels.fill(0);
    const [fromX, fromY] = t < 1 ? [this.from.x, this.from.y] : [x, y];
    const side = Math.max(2, Math.round((order.length > 5000 ? SIZE - 0.5 : order.length > 1000 ? SIZE + 1 : SIZE + 3) * ratio));
    for (let place = 0; place < order.length; place += 1) {
      const n = order[place];
      const column = Math.round((left + (fromX[n] + (x[n] - fromX[n]) * t) * scale) * ratio - side / 2);
      const row = Math.round((top - (fromY[n] + (y[n] - fromY[n]) * t) * scale) * ratio - side / 2);
      if (column < 0 || row < 0 || column + side > across || row + side > down) continue;
      const pixel = colours[colour[n]];
      for (let at = row * across + column, end = at + side * across; at < end; at += across)
        for (let one = at; one < at + side; one += 1) pixels[one] = pixel;
    }
    context.putImageData(this.image, 0, 0);
    if (this.moving) this.paintSoon(); else delete this.canvas.dataset.moving;
  }

  at(x, y) {
    const scale = this.scale * this.zoom;
    const [px, py] = [(x - this.width / 2 - this.panX) / scale + this.middle[0], (this.height / 2 + this.panY - y) / scale + this.middle[1]];
    let [best, least] = [null, (8 / scale) ** 2];
    for (let n = 0; n < this.x.length; n += 1) {
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
