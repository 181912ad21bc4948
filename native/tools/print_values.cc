// Prints the values that C++ and TypeScript share as a TypeScript module: ts/native/values.generated.ts.

#include <cstdio>

int main() {
    std::puts("// Written by native/tools/print_values.cc (npm run generate). Do not edit.");
    std::puts("\nexport {};");
    return std::fflush(stdout) == 0 ? 0 : 1;
}
