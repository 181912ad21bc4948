// What a test file has around it: a directory, places, nodes and loads, all of which end with it.

import { mkdtempSync, rmSync } from "node:fs";
import { after, afterEach } from "node:test";
import { Load, Node } from "./node.mjs";
import { Cable, Place } from "./place.mjs";

export class Scene {
  #ends = [];

  constructor() {
    this.directory = mkdtempSync("/var/tmp/keel-volumes-");
  }

  async place(name) {
    const place = await Place.open(name);
    this.#ends.push(() => place.close());
    return place;
  }

  cable(left, right, number) {
    return new Cable(left, right, number);
  }

  node(options) {
    const node = new Node({ directory: this.directory, place: Place.here(), ...options });
    this.#ends.push(() => node.stop());
    return node;
  }

  load(...args) {
    const load = new Load(...args);
    this.#ends.push(() => load.kill());
    return load;
  }

  async close() {
    for (const end of this.#ends.reverse()) await end();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** The scene of a test file, and `node`, which makes a node that stops with its test. */
export function sceneOfFile() {
  const scene = new Scene();
  const nodes = [];
  after(() => scene.close());
  afterEach(async () => {
    for (const node of nodes.splice(0)) await node.stop();
  });
  const node = (name, more = {}) => {
    const made = scene.node({ name, ...more });
    nodes.push(made);
    return made;
  };
  return { scene, node };
}

/** A subsystem with one namespace, for any host. */
export const ofAny = (device) => ({ namespaces: [{ id: 1, device }], hosts: "any" });
