// Every method of the control socket.

import { z } from "zod";
import { dstMethods } from "./dst-methods.js";
import { keelMethods } from "./keel-methods.js";
import { type Method, spdkMethod } from "./method.js";
import { spdkMethods } from "./spdk-methods.js";
import { volumeMethods } from "./volume-methods.js";

const own: readonly Method[] = [...keelMethods, ...volumeMethods, ...dstMethods, ...spdkMethods];

export const methods: readonly Method[] = [
  ...own,
  spdkMethod(
    "rpc_get_methods",
    "The names of all methods.",
    z.strictObject({ current: z.boolean().optional() }),
    () => [...own.map(({ name }) => name), "rpc_get_methods"].sort(),
  ),
];
