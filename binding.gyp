# One file builds the engine (a library without N-API), the addon, the keeper, the generator of shared values and,
# with -Dtests=1, the native test program. Source lists and flags come from scripts/sources.mjs, so that a new
# file needs no edit here. Sanitizer and fuzzer builds take the same lists: scripts/native.mjs.
{
  'variables': {
    'tests%': 0,
  },
  'target_defaults': {
    'include_dirs': ['native'],
    'cflags_cc/': [['exclude', '^-std=gnu']],
    'cflags_cc!': ['-Wno-unused-parameter', '-O3'],
    'cflags!': ['-Wno-unused-parameter', '-O3'],
    'cflags_cc': ['-O2', '-g', '-fvisibility=hidden', '<!@(node scripts/sources.mjs flags)'],
    'ldflags': ['-pthread', '-Wl,--as-needed', '-Wl,-z,relro,-z,now'],
  },
  'targets': [
    {
      'target_name': 'engine',
      'type': 'static_library',
      'sources': ['<!@(node scripts/sources.mjs engine)'],
      'cflags_cc': ['-fPIC'],
      'link_settings': {'libraries': ['<!@(node scripts/sources.mjs libraries)']},
    },
  ],
  'conditions': [
    ['"<!(node scripts/sources.mjs binding --count)" != "0"', {
      'targets': [{
        'target_name': 'keel',
        'type': 'loadable_module',
        'dependencies': ['engine'],
        'sources': ['<!@(node scripts/sources.mjs binding)'],
        'defines': ['NAPI_VERSION=9', 'NAPI_DISABLE_CPP_EXCEPTIONS', 'NODE_ADDON_API_DISABLE_DEPRECATED'],
        # As system headers: napi.h does not survive -Wshadow.
        'cflags_cc': [
          '-isystem', '<!(node scripts/sources.mjs napi-include)',
          '-isystem', '<(node_root_dir)/include/node',
        ],
      }],
    }],
    ['"<!(node scripts/sources.mjs keeper --count)" != "0"', {
      'targets': [{
        'target_name': 'keel-keeper',
        'type': 'executable',
        'dependencies': ['engine'],
        'sources': ['<!@(node scripts/sources.mjs keeper)'],
      }],
    }],
    ['"<!(node scripts/sources.mjs tcmu --count)" != "0"', {
      'targets': [
        {
          'target_name': 'keel-tcmu',
          'type': 'executable',
          'sources': ['<!@(node scripts/sources.mjs tcmu)'],
          'ldflags': ['-Wl,--dynamic-list=<(module_root_dir)/native/tcmu/exports.txt'],
          'libraries': ['-ldl'],
        },
        {
          'target_name': 'handler_file',
          'type': 'shared_library',
          'product_prefix': '',
          'product_dir': '<(PRODUCT_DIR)',
          'sources': ['native/tcmu/handlers/file.cc'],
          'cflags_cc': ['-fPIC'],
        },
        {
          'target_name': 'handler_ram',
          'type': 'shared_library',
          'product_prefix': '',
          'product_dir': '<(PRODUCT_DIR)',
          'sources': ['native/tcmu/handlers/ram.cc'],
          'cflags_cc': ['-fPIC'],
        },
      ],
    }],
    ['"<!(node scripts/sources.mjs tools --count)" != "0"', {
      'targets': [{
        'target_name': 'print_values',
        'type': 'executable',
        'dependencies': ['engine'],
        'sources': ['<!@(node scripts/sources.mjs tools)'],
      }],
    }],
    ['"<!(node scripts/sources.mjs load --count)" != "0"', {
      'targets': [{
        'target_name': 'keel-load',
        'type': 'executable',
        'dependencies': ['engine'],
        'sources': ['<!@(node scripts/sources.mjs load)'],
      }],
    }],
    ['tests==1', {
      'targets': [
        {
          'target_name': 'native_tests',
          'type': 'executable',
          'dependencies': ['engine'],
          'sources': ['<!@(node scripts/sources.mjs native-tests)'],
          'defines': ['<!@(node scripts/sources.mjs test-defines)'],
        },
        {
          'target_name': 'handler_faulty',
          'type': 'shared_library',
          'product_prefix': '',
          'product_dir': '<(PRODUCT_DIR)',
          'sources': ['native/testing/tcmu/faulty.cc'],
          'cflags_cc': ['-fPIC'],
        },
      ],
    }],
  ],
}
