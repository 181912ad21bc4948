// Written by native/tools/print_values.cc (npm run generate). Do not edit.

export {};
